import pytest

from m3plugins import Document, HybridRetriever, HybridWeights, InMemoryHybridIndex, M3Encoder
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusHybridIndex, collection
from tests.milvus.conftest import Create, random_documents
from tests.tiny import SENTENCES

QUERIES = [*SENTENCES, "", "zzz unseen", "fox 狐 лиса"]


def in_memory(index: MilvusHybridIndex) -> InMemoryHybridIndex:
    """The same documents with the embeddings that the index holds (so the codec's error is in both)."""
    oracle = InMemoryHybridIndex(encoder=index.encoder)
    stored = list(index.scan(with_embeddings=True))
    oracle.upsert([document for document, _ in stored], embeddings=[output for _, output in stored])
    return oracle


@pytest.fixture(scope="module")
def oracle(index: MilvusHybridIndex) -> InMemoryHybridIndex:
    return in_memory(index)


def assert_same_hits(got, expected):
    assert [hit.score for hit in got] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    wanted = {hit.id: hit for hit in expected}
    for hit in got[:-1]:  # the last may be one of several equals
        assert hit.scores.dense == pytest.approx(wanted[hit.id].scores.dense, abs=1e-5)
        assert hit.scores.sparse == pytest.approx(wanted[hit.id].scores.sparse, abs=1e-5)
        assert hit.scores.multi_vector == pytest.approx(wanted[hit.id].scores.multi_vector, abs=1e-5)
        assert hit.document == wanted[hit.id].document


@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
def test_is_brute_force_where_the_candidates_cover_the_corpus(index, oracle, fusion):
    options = {"candidates": 100, "multi_vector_depth": 100, "fusion": fusion}
    engine, brute_force = HybridRetriever(index, **options), HybridRetriever(oracle, **options)
    got, expected = engine.search_many(QUERIES, 20), brute_force.search_many(QUERIES, 20)
    for some, others in zip(got, expected, strict=True):
        if fusion == "weighted":
            assert_same_hits(some, others)
        else:
            assert [hit.id for hit in some] == [hit.id for hit in others]


@pytest.mark.parametrize("wanted", [filters.eq("lang", "ja"), filters.gte("number", 90), 'metadata["number"] >= 90'])
def test_is_brute_force_within_a_filter(index, oracle, wanted):
    engine = HybridRetriever(index, candidates=100, multi_vector_depth=100)
    brute_force = HybridRetriever(oracle, candidates=100, multi_vector_depth=100)
    neutral = filters.gte("number", 90) if isinstance(wanted, str) else wanted
    for query in QUERIES[::4]:
        assert_same_hits(engine.search(query, 8, filter=wanted), brute_force.search(query, 8, filter=neutral))


def test_scores_are_exact_for_every_member_of_a_small_union(index, oracle, encoder):
    for query in QUERIES:
        embedded = encoder.encode_queries([query])
        proposed = index.candidates(embedded, 3)
        union = {hit.id for head in proposed.values() for hit in head}
        assert 3 <= len(union) <= 6
        exact = oracle.score(embedded, list(union))
        for i, scores in index.score(embedded.select(["dense", "sparse"]), list(union)).items():
            assert scores.dense == pytest.approx(exact[i].dense, abs=1e-6)
            assert scores.sparse == pytest.approx(exact[i].sparse, abs=1e-6)
            assert scores.multi_vector is None


def test_candidates_are_those_of_brute_force(index, oracle, encoder):
    for query in QUERIES:
        embedded = encoder.encode_queries([query], heads=["dense", "sparse"])
        got, expected = index.candidates(embedded, 10), oracle.candidates(embedded, 10)
        for head in ("dense", "sparse"):
            assert [hit.score for hit in got[head]] == pytest.approx([hit.score for hit in expected[head]], abs=1e-5)
            assert all(hit.score > 0 for hit in got["sparse"])


def test_candidates_have_the_heads_of_the_query(index, encoder):
    assert set(index.candidates(encoder.encode_queries(["fox"], heads=["dense"]), 3)) == {"dense"}
    assert set(index.candidates(encoder.encode_queries(["fox"], heads=["sparse"]), 3)) == {"sparse"}


def test_a_query_without_a_token_weight_has_no_sparse_candidates(index, encoder):
    assert index.candidates(encoder.encode_queries([""]), 3)["sparse"] == []


def test_equal_scores_come_in_the_order_of_ids(empty, embedding, encoder):
    ids = [f"{number:02}" for number in range(40)]
    empty.upsert([Document(id=i, text="same") for i in reversed(ids)], embeddings=[embedding] * 40)
    query = encoder.encode_queries(["The quick brown fox"])
    for head in empty.candidates(query, 7).values():
        assert [hit.id for hit in head] == ids[:7]


def test_limits_on_rows_do_not_show(index, oracle, encoder, monkeypatch):
    monkeypatch.setattr(collection, "MAX_ROWS", 8)
    query = encoder.encode_queries(["The quick brown fox"])
    for wanted in (None, filters.eq("lang", "de"), filters.gt("number", 80)):
        assert {d.id for d in index.scan(wanted)} == {d.id for d in oracle.scan(wanted)}
        assert index.count(wanted) == oracle.count(wanted)
        for head, hits in oracle.candidates(query, 30, wanted).items():
            assert [hit.id for hit in index.candidates(query, 30, wanted)[head]] == [hit.id for hit in hits]


@pytest.mark.parametrize(("codec", "tolerance"), [("float16", 2e-3), ("binary", 1.0)])
def test_every_codec_scores_what_it_kept(create: Create, encoder: M3Encoder, codec, tolerance):
    index = create(codec=codec)
    documents = random_documents(12)
    index.upsert(documents)
    query = encoder.encode_queries(["The quick brown fox"])
    kept, exact = in_memory(index), InMemoryHybridIndex(encoder=encoder)
    exact.upsert(documents)
    ids = [document.id for document in documents]
    got = index.score(query, ids)
    for i, scores in kept.score(query, ids).items():
        assert got[i].multi_vector == pytest.approx(scores.multi_vector, abs=1e-5)
    for i, scores in exact.score(
        query, ids
    ).items():  # 2^-11 of a component, over at most 32 of them; binary: a bit each
        assert got[i].multi_vector == pytest.approx(scores.multi_vector, abs=tolerance)
        assert (got[i].dense, got[i].sparse) == pytest.approx((scores.dense, scores.sparse), abs=1e-6)


def test_weights_choose_the_heads(index, oracle):
    weights = HybridWeights(dense=0, sparse=1, multi_vector=0)
    got = HybridRetriever(index, weights=weights).search("lazy dog", 5)
    expected = HybridRetriever(oracle, weights=weights).search("lazy dog", 5)
    assert [hit.id for hit in got] == [hit.id for hit in expected]


@pytest.mark.parametrize("dense_index", [{"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}])
def test_an_approximate_dense_index_can_be_chosen(create: Create, encoder: M3Encoder, dense_index):
    index = create(dense_index=dense_index)
    index.upsert(random_documents(20))
    assert len(index.candidates(encoder.encode_queries(["fox"]), 5)["dense"]) == 5
