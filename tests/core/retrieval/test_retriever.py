"""The ranking: equal to brute force where the options cover the corpus, exact within the union where not."""

import asyncio
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from m3plugins import (
    Document,
    HybridRetriever,
    HybridWeights,
    InMemoryHybridIndex,
    M3Encoder,
    SparseEmbeddings,
)
from m3plugins.fusion import best_first, weighted_sum
from m3plugins.reranking import M3Reranker
from m3plugins.retrieval import explain, filters
from m3plugins.scoring import head_scores
from tests.tiny import SENTENCES

WEIGHTS = [
    HybridWeights(),
    HybridWeights(dense=1, sparse=0.3, multi_vector=0),
    HybridWeights(dense=1, sparse=0, multi_vector=0),
    HybridWeights(dense=0, sparse=0, multi_vector=1),
    HybridWeights(dense=0, sparse=0.3, multi_vector=1),
    HybridWeights(dense=0.15, sparse=0.5, multi_vector=0.35),
]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    rng = np.random.default_rng(0)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 40))) for _ in range(60)]
    return [Document(id=f"d{i:02d}", text=text, metadata={"i": i}) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def index(encoder: M3Encoder, documents: list[Document]) -> InMemoryHybridIndex:
    index = InMemoryHybridIndex(encoder=encoder, codec=None)
    index.upsert(documents)
    return index


def brute_force(encoder: M3Encoder, documents: list[Document], query: str):
    embedded = encoder.encode_documents([document.content for document in documents])
    return dict(zip([d.id for d in documents], head_scores(encoder.encode_queries([query]), embedded), strict=True))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("query", ["quick fox", "Быстрая лиса", "河边"])
def test_ranking_equals_brute_force_where_the_options_cover_the_corpus(encoder, documents, index, weights, query):
    hits = HybridRetriever(index, weights=weights, candidates=60, multi_vector_depth=60).search(query, k=60)
    exact = {i: weighted_sum(scores, weights) for i, scores in brute_force(encoder, documents, query).items()}
    assert [hit.id for hit in hits] == best_first(exact)
    assert [hit.score for hit in hits] == pytest.approx([exact[hit.id] for hit in hits], abs=1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_reciprocal_ranks_equal_brute_force(encoder, documents, index, weights):
    retriever = HybridRetriever(index, fusion="rrf", weights=weights, candidates=60, multi_vector_depth=60)
    hits = retriever.search("lazy dog", k=60)
    exact = brute_force(encoder, documents, "lazy dog")
    fused = dict.fromkeys(exact, 0.0)
    for head in weights.heads:
        column = {i: getattr(scores, head) for i, scores in exact.items() if head != "sparse" or scores.sparse > 0}
        for i, score in column.items():
            rank = 1 + sum(other > score + 1e-6 for other in column.values())
            fused[i] += getattr(weights, head) / (60 + rank)
    assert [hit.id for hit in hits] == sorted(fused, key=lambda i: (-round(fused[i], 9), i))
    assert [hit.score for hit in hits] == pytest.approx([fused[hit.id] for hit in hits], abs=1e-9)


def test_scores_are_exact_on_every_head_however_few_candidates_there_are(encoder, documents, index):
    exact = brute_force(encoder, documents, "brown fox")
    for hit in HybridRetriever(index, candidates=3, multi_vector_depth=4).search("brown fox", k=3):
        for head in ("dense", "sparse", "multi_vector"):
            assert getattr(hit.scores, head) == pytest.approx(getattr(exact[hit.id], head), abs=1e-5)


def test_only_the_shortlist_goes_on(index):
    hits = HybridRetriever(index, candidates=60, multi_vector_depth=5).search("brown fox", k=2)
    assert len(hits) == 2
    shallow = HybridRetriever(index, candidates=60, multi_vector_depth=1).search("brown fox", k=5)
    assert len(shallow) == 5  # k if that is more
    assert all(hit.scores.multi_vector is not None for hit in shallow)


def test_filter_limits_every_head(index):
    hits = HybridRetriever(index).search("fox", k=60, filter=filters.lt("i", 7))
    assert {hit.id for hit in hits} == {f"d{i:02d}" for i in range(7)}


def test_min_score_leaves_lower_hits_out(index):
    every = HybridRetriever(index).search("fox", k=10)
    some = HybridRetriever(index).search("fox", k=10, min_score=every[4].score)
    assert [hit.id for hit in some] == [hit.id for hit in every[:5]]


def test_equal_scores_are_ordered_by_id(encoder):
    index = InMemoryHybridIndex(encoder=encoder)
    embedding = encoder.encode_documents(["the same text"])
    index.upsert((Document(id=i, text="the same text") for i in "cab"), embeddings=embedding.take([0, 0, 0]))
    assert [hit.id for hit in HybridRetriever(index).search("text", k=3)] == ["a", "b", "c"]


def test_many_queries_give_the_hits_of_each(index):
    retriever = HybridRetriever(index)
    queries = ["fox", "", "犬"]
    together = retriever.search_many(queries, k=5)
    assert [[hit.id for hit in hits] for hits in together] == [
        [hit.id for hit in retriever.search(query, k=5)] for query in queries
    ]
    assert retriever.search_many([]) == []
    assert retriever.search_many(query for query in queries) == retriever.search_many(queries)


def test_async_search_gives_the_same_hits(index):
    retriever = HybridRetriever(index)
    assert asyncio.run(retriever.asearch("fox", k=4)) == retriever.search("fox", k=4)


def test_reranker_has_the_last_word_on_the_top(encoder, index):
    sparse_only = M3Reranker(encoder, weights=HybridWeights(dense=0, sparse=1, multi_vector=0))
    plain = HybridRetriever(index, weights=WEIGHTS[2])
    hits = HybridRetriever(index, weights=WEIGHTS[2], reranker=sparse_only, rerank_depth=8).search("lazy dog", k=5)
    pool = plain.search("lazy dog", k=8)
    expected = dict(zip([h.id for h in pool], sparse_only.score("lazy dog", [h.text for h in pool]), strict=True))
    assert [hit.id for hit in hits] == sorted(expected, key=lambda i: (-expected[i], i))[:5]
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.id] for hit in hits], abs=1e-5)


def test_an_empty_index_has_no_hits(encoder):
    assert HybridRetriever(InMemoryHybridIndex(encoder=encoder)).search("anything") == []


def test_by_reciprocal_ranks_the_only_document_with_the_word_comes_first(encoder):
    """Where the others share no word with the query, they have no rank by words that they could share."""
    embedding = encoder.encode_documents(["the quick brown fox"])
    without = replace(embedding, sparse=SparseEmbeddings.from_dicts([{}], vocab_size=embedding.sparse.vocab_size))
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert((Document(id=f"other {i:02}", text="the same") for i in range(20)), [without] * 20)
    index.upsert([Document(id="the word", text="the same")], [embedding])
    hits = HybridRetriever(index, fusion="rrf").search("fox", k=21)
    assert hits[0].id == "the word"
    assert [hit.score for hit in hits] == pytest.approx([2.3 / 61] + [2 / 61] * 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates must be a positive integer, got 0"),
        ({"multi_vector_depth": -1}, "multi_vector_depth must be"),
        ({"fusion": "max"}, "fusion must be"),
    ],
)
def test_bad_options_are_refused(index, options, message):
    with pytest.raises(ValueError, match=message):
        HybridRetriever(index, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"dense": 1, "sparse": 0}}, r"must be a HybridWeights, got .*; write HybridWeights\(dense=1, sp"),
        ({"weights": (1, 0.3, 1)}, r"write HybridWeights\(dense=1, sparse=0.3, multi_vector=1\)"),
        ({"weights": 0}, "weights must be a HybridWeights, got 0"),
        ({"index": None}, "index must be a HybridIndex, such as .*, got None"),
        ({"index": "m3.db"}, "index must be a HybridIndex, such as .*, got 'm3.db'"),
        ({"reranker": "BAAI/bge-reranker-v2-m3"}, r"reranker must have score\(query, texts\), as M3Reranker"),
        ({"reranker": M3Reranker}, "reranker must have score"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_at_once(index, options, message):
    with pytest.raises(TypeError, match=message):
        HybridRetriever(**{"index": index, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"dense": 1}}, r"write HybridWeights\(dense=1\)"),
        ({"min_score": "0.5"}, "min_score must be a number or None, got '0.5'"),
    ],
)
def test_options_of_a_search_of_the_wrong_kind_are_refused(index, options, message):
    retriever = HybridRetriever(index)
    embedding = index.encoder.encode_queries(["fox"])
    for ask in (
        lambda: retriever.search("fox", **options),
        lambda: retriever.search_many([], **options),
        lambda: retriever.search_embedded("fox", embedding, **options),
        lambda: asyncio.run(retriever.asearch("fox", **options)),
        lambda: asyncio.run(retriever.asearch_many(["fox"], **options)),
    ):
        with pytest.raises(TypeError, match=message):
            ask()


@pytest.mark.parametrize("query", [None, 3, b"fox", ["fox"]])
def test_a_query_that_is_no_string_is_named(index, query):
    retriever = HybridRetriever(index)
    for ask in (retriever.search, lambda query: asyncio.run(retriever.asearch(query))):
        with pytest.raises(TypeError, match="query must be a string, got "):
            ask(query)
    with pytest.raises(TypeError, match=r"queries\[1\] must be a string, got "):
        retriever.search_many(["fox", query])


def test_weights_of_the_wrong_kind_are_refused_by_rerankers_and_explanations(index):
    (hit,) = HybridRetriever(index).search("fox", k=1)
    for ask in (lambda w: M3Reranker(index.encoder, weights=w), lambda w: explain("fox", hit, index=index, weights=w)):
        with pytest.raises(TypeError, match=r"write HybridWeights\(dense=1\)"):
            ask({"dense": 1})


def test_bad_k_is_refused(index):
    with pytest.raises(ValueError, match="k must be a positive integer, got 0"):
        HybridRetriever(index).search("fox", k=0)


def test_a_retriever_never_changes_and_a_variant_of_it_is_checked(index):
    retriever = HybridRetriever(index)
    with pytest.raises(FrozenInstanceError):
        retriever.candidates = 3
    assert replace(retriever, candidates=3).candidates == 3 and retriever.candidates == 100
    with pytest.raises(ValueError, match="candidates must be a positive integer, got 0"):
        replace(retriever, candidates=0)
    with pytest.raises(TypeError, match=r"write HybridWeights\(dense=1\)"):
        replace(retriever, weights={"dense": 1})


@pytest.mark.parametrize("search", ["search_many", "search_embedded"])
def test_an_option_that_no_search_has_is_refused_by_name(index, encoder, search):
    arguments = (["fox"],) if search == "search_many" else ("fox", encoder.encode_queries(["fox"]))
    with pytest.raises(TypeError, match="unknown option filtr; a search takes filter, weights"):
        getattr(HybridRetriever(index), search)(*arguments, filtr=None)
