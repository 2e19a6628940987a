"""Documents that are copied with their M3 object are found out, get their own, and are never taken for another."""

import pytest
from elasticsearch.helpers import bulk

from m3plugins import HybridRetriever
from m3plugins.scoring.heads import head_scores
from m3plugins_elasticsearch.enricher import Enricher
from tests.elasticsearch.enricher.conftest import until, watching

pytestmark = pytest.mark.elasticsearch9

FOX, DOG = "The quick brown fox jumps", "A lazy dog sleeps near the river"


def found(index, query=FOX):
    return {hit.id: hit.text for hit in HybridRetriever(index, candidates=50).search(query, 10)}


def copy(owner, source, target):
    """As an application that knows nothing of M3 copies a document: with all that is in it."""
    owner.client.index(index=owner.name, id=target, document=owner.source(source), refresh=True)


def test_a_copy_is_told_by_verify_and_gets_its_own_object_without_a_forward_pass(articles, enricher, attach, witness):
    articles.put("1", body=FOX)
    enricher.run_once()
    copy(articles, "1", "copy")
    report = enricher.verify()
    assert (report.enriched, report.stale, report.examples) == (1, 1, {"stale": ["copy"]})
    report = enricher.run_once()
    assert (report.enriched, report.annotated) == (0, 1)
    assert articles.m3("copy") == {**articles.m3("1"), "id": "copy"}
    assert enricher.verify().complete and witness.texts == [FOX]
    assert found(attach()) == {"1": FOX, "copy": FOX}


def test_a_copy_made_while_it_watches_is_healed(articles, enricher):
    articles.put("1", body=FOX)
    with watching(enricher):
        until(lambda: articles.m3("1"))
        copy(articles, "1", "copy")
        until(lambda: articles.m3("copy")["id"] == "copy")
    assert enricher.verify().complete


def test_until_then_no_document_has_anothers_scores_or_embeddings(articles, enricher, attach, encoder):
    articles.put("1", body=FOX)
    enricher.run_once()
    copy(articles, "1", "copy")
    articles.put("1", body=DOG)
    enricher.run_once()
    articles.update("copy", m3={"id": "1"})  # as it was before the run
    articles.client.indices.refresh(index=articles.name)
    index, texts = attach(), {"1": DOG, "copy": FOX}
    assert found(index) == {"1": DOG}
    fresh = dict(zip(texts, encoder.encode_documents(list(texts.values())), strict=True))
    query = encoder.encode_queries([FOX]).select(["dense", "sparse"])
    scores, stored = index.score(query, list(texts)), index.embeddings(list(texts))
    for i, output in fresh.items():
        assert stored[i].dense == pytest.approx(output.dense, abs=1e-6)
        assert scores[i].dense == pytest.approx(head_scores(query, output)[0].dense, abs=1e-5)
        assert scores[i].sparse == pytest.approx(head_scores(query, output)[0].sparse, rel=1e-2)
    assert {d.id: d.text for d, _ in index.scan(with_embeddings=True)} == texts


def test_two_documents_that_change_places_are_scored_by_their_own_texts(articles, enricher, attach, encoder):
    articles.put("1", body=FOX)
    articles.put("2", body=DOG)
    enricher.run_once()
    one, two = articles.source("1"), articles.source("2")
    articles.put("1", **two)
    articles.put("2", **one)
    articles.client.indices.refresh(index=articles.name)
    index = attach()
    best = HybridRetriever(index).search(FOX, 1)[0]
    assert (best.id, best.text) == ("2", FOX)
    assert enricher.verify().stale == 2
    assert enricher.run_once().annotated == 2
    again = HybridRetriever(index).search(FOX, 1)[0]
    assert (again.id, again.scores.dense) == ("2", pytest.approx(best.scores.dense))


@pytest.mark.parametrize(("prefix", "healed"), [("new-", 6), ("", 0)], ids=["renamed", "under their ids"])
def test_an_index_copied_with_its_objects_needs_no_forward_pass(owner, attach, witness, prefix, healed):
    owner.make()
    owner.fill(6)
    Enricher(attach()).run_once()
    target = owner.make(f"{owner.name}-2")
    attach(target)
    actions = [{"_id": prefix + str(number), **owner.source(str(number))} for number in range(6)]
    bulk(owner.client, actions, index=target, refresh=True)
    enricher = Enricher(attach(target))
    assert enricher.verify().stale == healed
    report = enricher.run_once()
    assert (report.enriched, report.annotated, report.unchanged) == (0, healed, 6 - healed)
    assert enricher.verify().enriched == 6
    assert len(witness.texts) == 6
    assert len(found(attach(target), "the fox number 1")) == 6


def test_a_text_that_is_copied_from_another_field_gets_its_vectors(articles, enricher, witness):
    articles.put("1", body=FOX, draft=DOG)
    enricher.run_once()
    articles.update("1", body=articles.source("1")["draft"])
    assert enricher.verify().stale == 1
    assert enricher.run_once().enriched == 1
    assert witness.texts == [FOX, DOG] and enricher.verify().complete


@pytest.mark.parametrize(
    "edit",
    [{"id": None}, {"id": ["1", "2"]}, {"token_count": None}, {"truncated": None}, {"revision": ["a", "b"]}],
    ids=str,
)
def test_an_object_that_its_owner_edits_is_made_anew(articles, enricher, edit):
    articles.put("1", body=FOX)
    enricher.run_once()
    before = articles.m3("1")
    articles.update("1", m3=edit)
    assert enricher.verify().orphaned == 1
    assert enricher.run_once().enriched == 1
    assert articles.m3("1") == before and enricher.verify().complete
