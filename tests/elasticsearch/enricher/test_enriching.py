"""Every document gets the vectors of its text, whoever writes it and however, and nothing else is touched."""

import json

import numpy as np
import pytest

from m3plugins import HybridRetriever
from m3plugins.compression import DEFAULT_CODEC, get_codec
from m3plugins.retrieval import filters
from m3plugins_elasticsearch.enricher import Enricher
from m3plugins_elasticsearch.mapping import META
from m3plugins_elasticsearch.rows import rounded
from tests.core.retrieval.ranking_suite import QUERIES, assert_same_hits, in_memory
from tests.elasticsearch.enricher.conftest import HEADS, Owner
from tests.tiny import random_documents

pytestmark = pytest.mark.elasticsearch9


def test_a_backfill_makes_an_index_that_ranks_as_brute_force_over_fresh_embeddings(owner, attach, encoder):
    owner.make(shards=3)
    documents = random_documents(60)
    for document in documents:
        owner.put(document.id, body=document.text, headline=document.title, **document.metadata)
    index = attach()
    report = Enricher(index).run_once()
    assert (report.enriched, report.completed, report.dead_letters) == (60, True, 0)
    fresh = encoder.encode_documents([document.content for document in documents])
    codec = get_codec(DEFAULT_CODEC)
    stored = index.embeddings([document.id for document in documents])
    for row, document in enumerate(documents):
        kept = stored[document.id]
        assert kept.dense == pytest.approx(fresh.dense[row : row + 1], abs=1e-6)
        sparse = fresh.sparse[row]
        assert kept.sparse[0].indices.tolist() == sparse.indices.tolist()
        assert kept.sparse[0].values == pytest.approx(rounded(sparse.values), rel=2**-8)
        vectors = fresh.multi_vector[row]
        decoded = codec.decode(codec.encode(vectors), vectors.shape[1])
        assert np.abs(kept.multi_vector[0] - decoded).max() <= 2 * np.abs(vectors).max() / 127
    engine = HybridRetriever(index, candidates=60, multi_vector_depth=60)
    brute_force = HybridRetriever(in_memory(index), candidates=60, multi_vector_depth=60)
    for query in QUERIES[::3]:
        assert_same_hits(engine.search(query, 10), brute_force.search(query, 10))
        some = filters.eq("lang", "de")
        assert_same_hits(engine.search(query, 5, filter=some), brute_force.search(query, 5, filter=some))


def test_a_second_run_finds_nothing_to_do(articles, enricher, witness):
    articles.fill(40)
    assert enricher.run_once().enriched == 40
    again = enricher.run_once()
    assert (again.enriched, again.annotated, again.unchanged) == (0, 0, 0)
    assert len(witness.texts) == 40
    (ledger,) = articles.ledgers()
    assert ledger["claims"] == [] and ledger["handed"] >= 39


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_callback_that_raises_ends_the_run_and_loses_nothing(articles, enricher, calls):
    articles.fill(10)
    told = []

    def stop(metrics):
        told.append(metrics)
        if len(told) == calls:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        enricher.run_once(stop)
    report = enricher.run_once()
    assert (report.completed, report.dead_letters) == (True, 0)
    verified = enricher.verify()
    assert (verified.enriched, verified.complete) == (10, True)


def test_looked_at_anew_what_is_enriched_is_recognised_and_not_encoded(articles, enricher, witness):
    articles.fill(30)
    enricher.run_once()
    assert enricher.run_once(anew=True).unchanged == 30
    assert len(witness.texts) == 30


@pytest.mark.parametrize(
    "edit",
    [
        lambda owner: owner.update("3", body="an edited text"),
        lambda owner: owner.put("3", body="an edited text"),
        lambda owner: (owner.client.delete(index=owner.name, id="3"), owner.put("3", body="an edited text")),
    ],
    ids=["partial update", "whole document", "deleted and made again"],
)
def test_an_edit_is_enriched_and_only_that_is_encoded(articles, enricher, witness, edit):
    articles.fill(10)
    enricher.run_once()
    edit(articles)
    assert articles.source("3")["body"] == "an edited text"
    report = enricher.run_once()
    assert report.enriched == 1
    assert witness.texts[10:] == ["an edited text"]
    assert enricher.verify().enriched == 10


def test_a_whole_document_written_again_unchanged_has_lost_its_vectors_and_gets_them_back(articles, enricher):
    articles.put("1", body="a fox")
    enricher.run_once()
    before = articles.m3("1")
    articles.put("1", body="a fox")
    assert articles.m3("1") == {}
    enricher.run_once()
    assert articles.m3("1") == before


def test_new_metadata_are_found_and_nothing_is_encoded(articles, attach, enricher, witness):
    articles.fill(10)
    enricher.run_once()
    articles.update("3", views=99)
    report = enricher.run_once()
    assert (report.enriched, report.annotated) == (0, 1)
    assert len(witness.texts) == 10
    hits = HybridRetriever(attach()).search("fox", filter=filters.eq("views", 99))
    assert [hit.id for hit in hits] == ["3"]
    assert enricher.verify().complete


def test_a_deleted_document_is_gone(articles, enricher, attach):
    articles.fill(5)
    enricher.run_once()
    articles.client.delete(index=articles.name, id="3")
    report = enricher.run_once()
    assert (report.enriched, report.dead) == (0, 0)
    assert enricher.verify().enriched == 4
    assert "3" not in {hit.id for hit in HybridRetriever(attach()).search("fox")}


def test_sparse_weights_are_replaced_not_merged(articles, enricher, encoder):
    old, new = encoder.encode_documents(["The quick brown fox jumps", "река"]).sparse
    articles.put("1", body="The quick brown fox jumps")
    enricher.run_once()
    articles.update("1", body="река")
    enricher.run_once()
    assert {int(i) for i in articles.m3("1")["sparse"]} == set(new.indices.tolist())
    gone = {str(i): 1.0 for i in set(old.indices.tolist()) - set(new.indices.tolist())}
    query = {"sparse_vector": {"field": "m3.sparse", "query_vector": gone, "prune": False}}
    assert gone and not articles.client.search(index=articles.name, query=query)["hits"]["hits"]


def test_an_edit_between_reading_and_write_back_is_not_overwritten(articles, enricher, witness):
    articles.put("1", body="the first text")

    def edit(texts):
        if texts == ["the first text"]:
            articles.put("1", body="the second text", views=2)

    witness.hook = edit
    report = enricher.run_once()
    assert report.conflicts == 1 and report.enriched == 0
    assert articles.source("1") == {"body": "the second text", "views": 2}
    report = enricher.run_once()
    assert (report.enriched, report.conflicts) == (1, 0)
    assert articles.source("1")["body"] == "the second text"
    assert enricher.verify().complete


def test_new_metadata_between_reading_and_write_back_are_not_overwritten(articles, enricher, witness):
    articles.fill(1)
    enricher.run_once()
    articles.update("0", body="another text")
    witness.hook = lambda texts: articles.update("0", views=77)
    assert enricher.run_once().conflicts == 1
    witness.hook = lambda texts: None
    assert enricher.run_once().enriched == 1
    assert articles.source("0")["views"] == 77
    assert enricher.verify().complete


def test_a_delete_between_reading_and_write_back_stays_a_delete(articles, enricher, witness):
    articles.fill(3)
    witness.hook = lambda texts: articles.client.delete(index=articles.name, id="1")
    report = enricher.run_once()
    assert (report.enriched, report.gone, report.dead) == (2, 1, 0)
    assert set(articles.sources()) == {"0", "2"}


def test_the_owners_documents_mapping_and_meta_stay_as_they_are(owner, attach):
    meta = {"team": "news", "nested": {"list": [1, None]}}
    owner.make(mappings={"properties": PROPERTIES_WITH_MORE, "_meta": meta, "dynamic": "strict"})
    owner.put("1", body="a fox", headline="H", views=1, tags=["a", "b"], comments=[{"by": "x"}, {"by": "y"}])
    owner.put("2", body=["two", "texts"], tags="c")
    sources, mapping = owner.sources(), owner.client.indices.get_mapping(index=owner.name)[owner.name]["mappings"]
    Enricher(attach()).run_once()
    assert owner.sources() == sources
    after = owner.client.indices.get_mapping(index=owner.name)[owner.name]["mappings"]
    assert after["properties"].pop("m3")["dynamic"] == "strict"
    assert after["_meta"].pop("m3plugins")
    assert after == mapping
    assert all(owner.m3(i)["model"] for i in "12")


PROPERTIES_WITH_MORE = {
    "body": {"type": "text"},
    "headline": {"type": "text"},
    "views": {"type": "integer"},
    "tags": {"type": "keyword"},
    "comments": {"type": "nested", "properties": {"by": {"type": "keyword"}}},
}


def test_several_texts_at_dotted_paths_are_one_text(owner, attach, encoder):
    text = {"type": "text"}
    inner = {"properties": {"abstract": text, "main": text, "head.line": text}}
    owner.make(mappings={"properties": {"page": inner, "lang": {"type": "keyword"}}})
    owner.put("1", page={"abstract": "A fox", "main": "sleeps by day", "head": {"line": "Foxes"}}, lang="en")
    owner.put("2", **{"page.abstract": "A dog", "page": {"main": "barks", "head.line": "Dogs"}}, lang="de")
    index = attach(fields={"text": ["page.abstract", "page.main"], "title": "page.head.line"})
    Enricher(index).run_once()
    fresh = encoder.encode_documents(["Foxes\nA fox\nsleeps by day", "Dogs\nA dog\nbarks"])
    stored = index.embeddings(["1", "2"], heads=["dense"])
    assert np.concatenate([stored[i].dense for i in "12"]) == pytest.approx(fresh.dense, abs=1e-6)
    assert [hit.id for hit in HybridRetriever(index).search("dog", filter=filters.eq("lang", "de"))] == ["2"]


@pytest.mark.parametrize("source", [{"body": ""}, {"body": None}, {"body": []}, {"views": 1}], ids=json.dumps)
def test_a_document_without_text_is_one_of_an_empty_text(articles, enricher, attach, source, encoder):
    articles.put("1", **source, lang="en")
    assert enricher.run_once().enriched == 1
    assert [hit.id for hit in HybridRetriever(attach()).search("fox", filter=filters.eq("lang", "en"))] == ["1"]
    assert attach().embeddings(["1"])["1"].dense == pytest.approx(encoder.encode_documents([""]).dense, abs=1e-6)
    assert enricher.verify().complete


def test_documents_with_a_routing_of_their_own_are_enriched_also_two_of_one_id(owner, attach):
    owner.make(shards=3)
    for routing in "abcdef":
        owner.client.index(
            index=owner.name, id="same", routing=routing, document={"body": f"fox {routing}"}, refresh=True
        )
    count = owner.client.count(index=owner.name)["count"]
    enricher = Enricher(attach())
    assert enricher.run_once().enriched == count > 1
    assert enricher.verify().enriched == count


def test_vectors_of_another_model_are_replaced(articles, enricher, witness):
    """A document may be copied from an index of another model, with all its fields."""
    articles.fill(2)
    enricher.run_once()
    articles.client.update(
        index=articles.name, id="1", doc={"m3": {"model": "another", "dense": articles.m3("0")["dense"]}}
    )
    assert enricher.verify().stale == 1
    assert enricher.run_once().enriched == 1
    assert witness.texts[2:] == ["the fox number 1"]
    assert enricher.verify().complete


def test_what_an_older_version_enriched_is_not_encoded_again(articles, attach, encoder, witness):
    articles.fill(3)
    index = attach()
    Enricher(index).run_once()
    recorded = {"description", "probes", "former"}
    stored = {name: value for name, value in index.identity.to_dict().items() if name not in recorded}
    former = {**stored, "fingerprint": encoder.former_fingerprint, "format": 1}
    articles.client.indices.put_mapping(index=articles.name, meta={"theirs": 1, META: former})
    for i in "012":
        stamp = f"{encoder.former_fingerprint}/{stored['codec']}/{stored['document_max_length']}"
        articles.client.update(index=articles.name, id=i, doc={"m3": {"model": stamp}})
    witness.texts.clear()
    again = attach()
    assert len(again.candidates(encoder.encode_queries(["fox"]), 3)["dense"]) == 3
    articles.fill(1, first=3)
    assert Enricher(again).run_once(anew=True).enriched == 1
    assert witness.texts == ["the fox number 3"]
    meta = articles.client.indices.get_mapping(index=articles.name)[articles.name]["mappings"]["_meta"]
    assert (meta["theirs"], meta[META]["former"]) == (1, encoder.former_fingerprint)
    assert meta[META]["description"] == encoder.description
    assert Enricher(attach()).verify().complete


@pytest.mark.parametrize("lost", HEADS)
def test_fields_that_somebody_took_out_come_back(articles, enricher, lost):
    articles.fill(2)
    enricher.run_once()
    ours = articles.m3("1")
    source = articles.source("1")
    articles.put("1", **{**source, "m3": {name: value for name, value in ours.items() if name != lost}})
    report = enricher.verify()
    assert (report.enriched, report.orphaned, report.examples) == (1, 1, {"orphaned": ["1"]})
    assert enricher.run_once().enriched == 1
    assert articles.m3("1").keys() == ours.keys()
    assert enricher.verify().complete


def test_what_a_run_says_adds_up_while_others_write(articles: Owner, enricher: Enricher, witness):
    articles.fill(64)
    edits = iter(range(64))
    witness.hook = lambda texts: articles.update(str(next(edits)), body="edited")
    seen = []
    report = enricher.run_once(seen.append)
    assert report.enriched + report.conflicts == 64 and report.conflicts >= 1
    assert seen[0].behind == 64 and seen[-1].behind == 0
    assert all(one.worker == enricher.worker for one in seen)
