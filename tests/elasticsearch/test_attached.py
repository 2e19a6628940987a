"""Documents that someone else writes: only our fields are added, and what is enriched is found by exact scores."""

import json
from contextlib import closing

import pytest
from elasticsearch import Elasticsearch

from m3plugins import (
    Document,
    HybridIndex,
    HybridRetriever,
    HybridWeights,
    InMemoryHybridIndex,
    M3Encoder,
    ModelMismatchError,
)
from m3plugins.indexing import IndexNotFoundError
from m3plugins.retrieval import explain, filters
from m3plugins_elasticsearch import AttachedIndex
from m3plugins_elasticsearch.bulk import bulk, failures, update
from m3plugins_elasticsearch.field_paths import OURS, FieldPaths
from m3plugins_elasticsearch.mapping import META
from m3plugins_elasticsearch.rows import our_fields
from tests.core.retrieval.ranking_suite import QUERIES, in_memory
from tests.tiny import random_documents, save_checkpoint

pytestmark = pytest.mark.elasticsearch9

FIELDS = {"text": "article.body", "title": "headline"}
MAPPING = {
    "_meta": {"owner": "them", "nested": {"list": [1, None]}},
    "dynamic_templates": [{"words": {"match_mapping_type": "string", "mapping": {"type": "keyword"}}}],
    "properties": {
        "article": {"properties": {"body": {"type": "text", "fields": {"raw": {"type": "keyword"}}}}},
        "headline": {"type": "text"},
        "name": {"type": "alias", "path": "headline"},
        "year": {"type": "integer"},
    },
}


@pytest.fixture(scope="module")
def client(es_url):
    with closing(Elasticsearch(es_url)) as client:
        yield client


def source(document: Document) -> dict:
    return {"article": {"body": document.text}, "headline": document.title, **document.metadata}


def as_attached(document: Document) -> Document:
    return Document(
        id=document.id, text=document.text, title=document.title, metadata={"article": {}, **document.metadata}
    )


def make(client, name, documents=(), *, mapping=MAPPING, settings=None):
    """Their index, with their documents."""
    client.indices.create(index=name, mappings=mapping, settings=settings or {"number_of_shards": 2})
    lines = [line for d in documents for line in ({"index": {"_id": d.id}}, source(d))]
    if lines:
        assert not client.bulk(index=name, operations=lines, refresh=True)["errors"]


def enrich(index: AttachedIndex, ids=None) -> dict[str, str]:
    """Writes our fields into documents by hand, each into its own object; returns what failed."""
    documents = [document for document in index.scan() if ids is None or document.id in ids]
    output = index.encoder.encode_documents([document.content for document in documents])
    actions = []
    for row, document in enumerate(documents):
        ours = our_fields(document, document.digest(), output[row], index.identity.codec)
        actions.append(update(document.id, {OURS: ours}))
    failed = failures(bulk(index.store.connection, index.name, actions))
    index.store.connection.client.indices.refresh(index=index.name)
    return failed


@pytest.fixture(scope="module")
def documents():
    return random_documents(60)


@pytest.fixture(scope="module")
def index(client, es_url, encoder, documents):
    """60 documents of theirs, all enriched, to be read only."""
    name = "m3-test-attached"
    client.indices.delete(index=name, ignore_unavailable=True)
    make(client, name, documents)
    with AttachedIndex.attach(name, encoder=encoder, uri=es_url, fields=FIELDS) as index:
        assert enrich(index) == {}
        yield index
    client.indices.delete(index=name)


@pytest.fixture
def attach(client, es_url, es_name, encoder):
    """Makes an index of theirs and attaches to it."""
    opened = []

    def new(documents=(), *, fields=FIELDS, mapping=MAPPING, settings=None, **options):
        if not client.indices.exists(index=es_name):
            make(client, es_name, documents, mapping=mapping, settings=settings)
        opened.append(AttachedIndex.attach(es_name, **{"encoder": encoder, "uri": es_url, "fields": fields, **options}))
        return opened[-1]

    yield new
    for index in opened:
        index.close()


# What is added


def described(client, name):
    answer = client.indices.get(index=name)[name]
    return answer["mappings"], answer["settings"], answer["aliases"]


def test_attaching_adds_our_fields_and_changes_nothing_else(client, attach, es_name, documents):
    make(client, es_name, documents[:5])
    stored = {hit["_id"]: hit for hit in client.search(index=es_name, seq_no_primary_term=True)["hits"]["hits"]}
    mapping, settings, aliases = described(client, es_name)
    attach()
    mapping_after, settings_after, aliases_after = described(client, es_name)
    ours = mapping_after["properties"].pop(OURS)
    identity = mapping_after["_meta"].pop(META)
    assert mapping_after == mapping
    assert (aliases_after, settings_after) == (aliases, settings)
    assert ours["dynamic"] == "strict" and {"dense", "sparse", "token_vectors"} < ours["properties"].keys()
    assert identity["fields"] == {"text": ["article.body"], "title": "headline"}
    after = {hit["_id"]: hit for hit in client.search(index=es_name, seq_no_primary_term=True)["hits"]["hits"]}
    assert after == stored


def test_enriching_changes_no_field_of_theirs(client, attach, es_name, documents):
    index = attach(documents[:5])
    before = {hit["_id"]: hit["_source"] for hit in client.search(index=es_name)["hits"]["hits"]}
    assert enrich(index) == {}
    after = {hit["_id"]: hit["_source"] for hit in client.search(index=es_name)["hits"]["hits"]}
    assert {i: {k: v for k, v in one.items() if k != OURS} for i, one in after.items()} == before
    client.update(index=es_name, id="doc-1", doc={"year": 1999}, refresh=True)  # a partial one of the owner's
    assert index.embeddings(["doc-1"])["doc-1"].multi_vector is not None


def test_a_second_attach_needs_no_fields_and_changes_nothing(client, attach, es_name, documents):
    first = attach(documents[:3])
    before = described(client, es_name)
    second = attach(fields=None)
    assert second.identity == first.identity == attach().identity
    assert described(client, es_name) == before
    assert second.count() == 3


def test_without_fields_the_first_attach_is_refused(client, attach, es_name):
    make(client, es_name)
    before = described(client, es_name)
    with pytest.raises(ValueError, match='fields must name the text.*as in {"text": "body"}'):
        attach(fields=None)
    assert described(client, es_name) == before


WRONG = [
    ({"text": "article.bodi"}, "no field 'article.bodi'; name one that they have, such as article.body"),
    ({"text": "article.body", "title": "headlin"}, "no field 'headlin'; name one that they have, such as headline"),
    ({"text": ["article.body", "yaer"]}, "no field 'yaer'; name one that they have, such as year"),
    ({"text": "article.body.raw"}, "no field 'article.body.raw'; name one that they have, such as article.body"),
    ({"text": "name"}, "no field 'name'"),
    ({"text": "article"}, "no field 'article'; name one that they have, such as article.body"),
    *(
        (fields, 'fields must be {"text": "body"}, with a "title" if there is one, got')
        for fields in ({}, {"text": ""}, {"text": []}, {"text": 5}, {"title": "headline"}, {"text": "year", "id": "x"})
    ),
    ("headline", "fields must be"),
    ({"text": "headline", "title": ["headline"]}, "fields must be"),
]


def test_fields_that_no_document_has_are_refused_with_near_names(client, attach, es_name):
    """Nor other names of a field, which a document's source does not know: every text would be empty."""
    make(client, es_name)
    before = described(client, es_name)
    for fields, error in WRONG:
        with pytest.raises(ValueError) as caught:
            attach(fields=fields)
        assert error in str(caught.value)
    assert described(client, es_name) == before


@pytest.mark.parametrize("kept", [{"enabled": False}, {"excludes": ["article"]}, {"includes": ["head*"]}], ids=str)
def test_a_text_that_the_source_does_not_hold_is_refused(attach, kept):
    with pytest.raises(ValueError, match="must hold 'article.body', its mapping's _source leaves it out"):
        attach(mapping={**MAPPING, "_source": kept})


def test_a_field_of_theirs_with_the_name_of_ours_is_refused_and_stays(client, attach, es_name):
    mapping = {"properties": {"body": {"type": "text"}, OURS: {"type": "keyword"}}}
    with pytest.raises(ValueError, match="has a field 'm3', where ours belong.*rename it"):
        attach(mapping=mapping, fields={"text": "body"})
    assert described(client, es_name)[0] == mapping


def test_a_meta_that_was_replaced_is_told(client, attach, es_name):
    attach()
    client.indices.put_mapping(index=es_name, meta={"owner": "them"})
    with pytest.raises(ValueError, match="if the _meta was replaced, put its 'm3plugins' back"):
        attach()


def test_other_options_than_those_it_was_attached_with_are_refused(attach):
    attach(codec="binary")
    for options, error in [
        ({"codec": "int8"}, "is there and has codec='binary', got 'int8'; leave codec out"),
        ({"codec": "binary", "dense_index": "flat"}, "has dense_index="),
        ({"codec": "binary", "fields": {"text": "headline"}}, "has fields="),
        ({"codec": ""}, "codec must be one of"),
    ]:
        with pytest.raises(ValueError) as caught:
            attach(**options)
        assert error in str(caught.value)


def test_another_model_is_refused(attach, tmp_path):
    attach()
    other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
    for fields in (FIELDS, None):
        with pytest.raises(ModelMismatchError):
            attach(encoder=other, fields=fields)


def test_an_index_that_is_not_there_is_not_made(client, es_url, es_name, encoder):
    with pytest.raises(IndexNotFoundError):
        AttachedIndex.attach(es_name, encoder=encoder, uri=es_url, fields=FIELDS)
    assert not client.indices.exists(index=es_name)


def test_an_alias_attaches_to_the_index_it_names(client, es_url, es_name, encoder):
    make(client, f"{es_name}-true")
    client.indices.put_alias(index=f"{es_name}-true", name=es_name)
    with AttachedIndex.attach(es_name, encoder=encoder, uri=es_url, fields=FIELDS) as index:
        assert index.name == f"{es_name}-true"


# Reading


def test_is_a_hybrid_index(index, encoder):
    assert isinstance(index, HybridIndex)
    assert index.encoder is encoder
    assert index.passages is None


def test_documents_are_theirs(index, documents):
    expected = {document.id: as_attached(document) for document in documents}
    assert {document.id: document for document in index.scan()} == expected
    assert {document.id: document for document, _ in index.scan(with_embeddings=True)} == expected
    assert index.count() == len(documents)
    assert index.get(["doc-7", "nope", "doc-3"]) == [expected["doc-7"], expected["doc-3"]]


@pytest.fixture(scope="module")
def oracle(index) -> InMemoryHybridIndex:
    return in_memory(index)


@pytest.mark.parametrize("weights", [HybridWeights(), HybridWeights(dense=0, sparse=1, multi_vector=0)], ids=str)
def test_search_is_brute_force(index, oracle, weights):
    for query in QUERIES[::2]:
        theirs = HybridRetriever(index, candidates=60, multi_vector_depth=60, weights=weights).search(query, 20)
        ours = HybridRetriever(oracle, candidates=60, multi_vector_depth=60, weights=weights).search(query, 20)
        assert [hit.id for hit in theirs] == [hit.id for hit in ours]
        assert [hit.score for hit in theirs] == pytest.approx([hit.score for hit in ours], abs=1e-5)


def test_scores_are_exact(index, encoder, documents):
    exact = InMemoryHybridIndex(encoder=encoder, codec=index.identity.codec)
    exact.upsert(documents)
    query = encoder.encode_queries(["The quick brown fox"])
    ids = [document.id for document in documents]
    expected = exact.score(query, ids)
    for i, scores in index.score(query, ids).items():
        assert scores.dense == pytest.approx(expected[i].dense, abs=1e-5)
        assert scores.sparse == pytest.approx(expected[i].sparse, rel=2e-3, abs=1e-6)  # 9 significant bits a weight
        assert scores.multi_vector == pytest.approx(expected[i].multi_vector, abs=1e-5)


FILTERS = [
    filters.eq("lang", "en"),
    filters.ne("lang", "en"),
    filters.gte("number", 30),
    filters.eq("even", True),
    filters.contains("lang", "e"),
    filters.exists("article"),
    filters.not_(filters.eq("number", 7)),
    filters.eq("headline", "Fox"),
]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_neutral_filters_are_exact(index, oracle, encoder, wanted):
    assert index.count(wanted) == oracle.count(wanted)
    assert {d.id for d in index.scan(wanted)} == {d.id for d in oracle.scan(wanted)}
    query = encoder.encode_queries(["fox"], heads=("dense", "sparse"))
    found, expected = index.candidates(query, 100, wanted), oracle.candidates(query, 100, wanted)
    assert {hit.id for hit in found["dense"]} == {hit.id for hit in expected["dense"]}


def test_native_filters_are_over_their_fields(index):
    assert index.count({"term": {"lang": "en"}}) == index.count(filters.eq("lang", "en"))
    assert index.count({"match": {"headline": "fox"}}) > 0
    assert index.count({"exists": {"field": "m3.dense"}}) == 60
    with pytest.raises(ValueError, match="got 'metadata.lang'.*did you mean .*'lang'"):
        index.count({"term": {"metadata.lang": "en"}})


def test_embeddings_and_explanations_are_of_what_is_stored(index):
    hit = HybridRetriever(index).search("The quick brown fox", k=1)[0]
    assert explain("The quick brown fox", hit, index=index).weighted == pytest.approx(hit.score, abs=1e-6)
    with pytest.raises(ValueError, match="has no BM25"):
        HybridRetriever(index, weights=HybridWeights(bm25=1)).search("fox")


# Documents that are not enriched, and documents of every kind


def test_what_is_not_enriched_is_there_and_is_not_found(attach, documents, encoder):
    index = attach(documents[:6])
    assert HybridRetriever(index).search("fox") == []
    enrich(index, {"doc-1", "doc-2"})
    query = encoder.encode_queries(["fox"])
    assert {hit.id for hit in HybridRetriever(index).search("fox")} == {"doc-1", "doc-2"}
    assert list(index.score(query, ["doc-0", "doc-1"])) == ["doc-1"] == list(index.embeddings(["doc-0", "doc-1"]))
    assert [document.id for document, _ in index.scan(with_embeddings=True)] in (["doc-1", "doc-2"], ["doc-2", "doc-1"])
    assert (index.count(), len(list(index.scan())), len(index.get(["doc-0"]))) == (6, 6, 1)
    assert index.reader.digests(["doc-0", "doc-1"]).keys() == {"doc-1"}
    assert index.count(filters.exists("number")) == 2


def test_documents_that_their_owner_routes_are_found_too(client, attach, es_name, encoder):
    """Their ids alone do not say which shard they are in."""
    index = attach(settings={"number_of_shards": 3})
    for number in range(9):
        body = {"article": {"body": f"a fox {number}"}}
        client.index(index=es_name, id=str(number), routing=f"r{number}", document=body, refresh=True)
    for document in index.scan():
        (output,) = encoder.encode_documents([document.content])
        ours = our_fields(document, document.digest(), output, "binary")
        ours = {**ours, "dense": ours["dense"].tolist()}
        client.update(index=es_name, id=document.id, routing=f"r{document.id}", doc={OURS: ours}, refresh=True)
    ids = [str(number) for number in reversed(range(9))]
    assert [document.id for document in index.get([*ids, "nope"])] == ids
    assert index.reader.digests(ids).keys() == set(ids)
    assert {hit.id for hit in HybridRetriever(index).search("fox", k=9)} == set(ids)


def test_texts_may_be_several_and_lists(client, attach, es_name):
    mapping = {"properties": {"parts": {"properties": {"body": {"type": "text"}}}, "note": {"type": "text"}}}
    index = attach(mapping=mapping, fields={"text": ["note", "parts.body"]})
    body = {"parts": [{"body": "one", "n": 1}, {"body": ["two", None]}], "note": "fox", "x": {"y": 1e22}}
    client.index(index=es_name, id="1", document=body, refresh=True)
    client.index(index=es_name, id="2", document={}, refresh=True)
    enrich(index)
    (first, second) = index.get(["1", "2"])
    assert first.text == "fox\none\ntwo"
    assert json.dumps(first.metadata) == json.dumps({"parts": [{"n": 1}, {}], "x": {"y": 1e22}})
    assert second == Document(id="2", text="")
    assert {hit.id for hit in HybridRetriever(index).search("two")} == {"1", "2"}


# Writing is their business


def test_writing_is_refused(index, documents):
    verbs = [
        lambda: index.upsert(documents),
        lambda: index.upsert([]),
        lambda: index.update_metadata({"doc-1": {}}),
        lambda: index.delete(["doc-1"]),
        lambda: index.delete(filter=filters.exists("number")),
        lambda: index.drop(),
        lambda: index.writer.remove(["doc-1"]),
        lambda: index.writer.write(None),
        lambda: index.writer.annotate([], []),
        lambda: index.writer.check(documents[0]),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match="are their owner's: write them as before, and let m3 enrich follow"):
            verb()
    assert index.count() == len(documents)


def test_closed_it_says_so(attach):
    index = attach()
    index.close()
    for verb in (index.count, lambda: index.get(["a"]), lambda: index.scan()):
        with pytest.raises(ValueError, match="this index is closed; attach it again with AttachedIndex.attach"):
            verb()


def test_attaching_by_a_client_of_the_users_own_leaves_it_open(client, es_name, encoder):
    make(client, es_name)
    AttachedIndex.attach(es_name, encoder=encoder, client=client, fields=FIELDS).close()
    assert client.count(index=es_name)["count"] == 0


def test_a_document_that_no_enricher_could_take_is_shown_as_it_is(es_url, es_name, encoder):
    mappings = {"properties": {"body": {"type": "text"}, "note": {"type": "object", "enabled": False}}}
    with Elasticsearch(es_url) as owner:
        owner.indices.create(index=es_name, mappings=mappings)
        half = ['{"index":{"_id":"half"}}', '{"body":"half \\ud83d"}']  # of a surrogate pair
        owner.bulk(index=es_name, operations=[*half, {"index": {"_id": "odd"}}, {"note": {"a": 1}}], refresh=True)
    with AttachedIndex.attach(es_name, encoder=encoder, uri=es_url, fields={"text": "body"}) as index:
        assert {document.id: document.text for document in index.scan()} == {"half": "half \ud83d", "odd": ""}
        assert [document.text for document in index.get(["half"])] == ["half \ud83d"]


def test_what_should_be_text_and_is_none_is_shown_as_json():
    document = FieldPaths.of({"text": ["body"], "title": ""}).document("1", {"body": {"en": "fox"}})
    assert document.text == '{"en": "fox"}'
