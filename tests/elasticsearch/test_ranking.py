import pytest

from m3plugins import Document, HybridRetriever, HybridWeights, InMemoryHybridIndex, M3Encoder
from m3plugins.retrieval import filters
from m3plugins_elasticsearch.identity import OVERSAMPLE
from tests.elasticsearch.conftest import Create
from tests.milvus.conftest import random_documents
from tests.milvus.test_ranking import QUERIES, assert_same_hits, in_memory
from tests.tiny import save_checkpoint


@pytest.fixture(scope="module")
def oracle(index) -> InMemoryHybridIndex:
    return in_memory(index)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> M3Encoder:
    """With vectors wide enough for Elasticsearch's binary quantisation."""
    return M3Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("wide"), hidden_size=64))


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


@pytest.mark.parametrize("settings", [{"number_of_shards": 3}])
@pytest.mark.parametrize("dense_index", sorted(OVERSAMPLE))
def test_is_brute_force_with_every_dense_index_on_several_shards(make: Create, wide, dense_index, settings):
    index = make(encoder=wide, dense_index=dense_index, settings=settings)
    index.upsert(random_documents(60))
    engine = HybridRetriever(index, candidates=60, multi_vector_depth=60)
    brute_force = HybridRetriever(in_memory(index), candidates=60, multi_vector_depth=60)
    for query in QUERIES[::3]:
        assert_same_hits(engine.search(query, 10), brute_force.search(query, 10))


NATIVE = {"term": {"metadata.lang": "ja"}}


@pytest.mark.parametrize("wanted", [filters.eq("lang", "ja"), filters.gte("number", 90), NATIVE], ids=str)
def test_is_brute_force_within_a_filter(index, oracle, wanted):
    engine = HybridRetriever(index, candidates=100, multi_vector_depth=100)
    brute_force = HybridRetriever(oracle, candidates=100, multi_vector_depth=100)
    neutral = filters.eq("lang", "ja") if wanted is NATIVE else wanted
    for query in QUERIES[::4]:
        assert_same_hits(engine.search(query, 8, filter=wanted), brute_force.search(query, 8, filter=neutral))


def test_a_filter_that_the_server_cannot_decide_is_decided_here(make: Create, encoder):
    index = make()
    long = "x" * 20_000
    index.upsert([Document(id=i, text="a fox", metadata={"note": long + i}) for i in "abc"])
    query = encoder.encode_queries(["fox"])
    found = index.candidates(query, 10, filters.contains("note", "xb"))
    assert {hit.id for hits in found.values() for hit in hits} == {"b"}


def test_scores_are_exact_for_every_member_of_a_small_union(index, oracle, encoder):
    for query in QUERIES:
        embedded = encoder.encode_queries([query])
        proposed = index.candidates(embedded, 3)
        union = {hit.id for head in proposed.values() for hit in head}
        assert 3 <= len(union) <= 6
        exact = oracle.score(embedded, list(union))
        for i, scores in index.score(embedded.select(["dense", "sparse"]), list(union)).items():
            assert scores.dense == pytest.approx(exact[i].dense, abs=1e-6)
            assert scores.sparse == pytest.approx(exact[i].sparse, rel=1e-6, abs=1e-6)
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
    found = empty.candidates(query, 40)
    assert [hit.id for hit in found["dense"]] == [hit.id for hit in found["sparse"]] == ids
    assert [hit.id for hit in empty.candidates(query, 7)["sparse"]] == ids[:7]


@pytest.mark.parametrize("k", [0, 10_001])
def test_what_elasticsearch_cannot_search_for_is_refused(index, encoder, k):
    with pytest.raises(ValueError, match="1 to 10,000 documents"):
        index.candidates(encoder.encode_queries(["fox"]), k)


@pytest.mark.parametrize(("codec", "tolerance"), [("float16", 2e-3), ("binary", 1.0)])
def test_every_codec_scores_what_it_kept(make: Create, encoder: M3Encoder, codec, tolerance):
    index = make(codec=codec)
    documents = random_documents(12)
    index.upsert(documents)
    query = encoder.encode_queries(["The quick brown fox"])
    kept, exact = in_memory(index), InMemoryHybridIndex(encoder=encoder)
    exact.upsert(documents)
    ids = [document.id for document in documents]
    got = index.score(query, ids)
    for i, scores in kept.score(query, ids).items():
        assert got[i].multi_vector == pytest.approx(scores.multi_vector, abs=1e-5)
    for i, scores in exact.score(query, ids).items():
        assert got[i].multi_vector == pytest.approx(scores.multi_vector, abs=tolerance)
        assert got[i].dense == pytest.approx(scores.dense, abs=1e-6)
        assert got[i].sparse == pytest.approx(scores.sparse, rel=2e-3, abs=1e-6)  # 9 significant bits a weight


def test_weights_choose_the_heads(index, oracle):
    weights = HybridWeights(dense=0, sparse=1, multi_vector=0)
    got = HybridRetriever(index, weights=weights).search("lazy dog", 5)
    expected = HybridRetriever(oracle, weights=weights).search("lazy dog", 5)
    assert [hit.id for hit in got] == [hit.id for hit in expected]


@pytest.mark.parametrize("settings", [{"number_of_shards": 1}, {"number_of_shards": 3}], ids=["1 shard", "3 shards"])
def test_bm25_scores_of_candidates_and_of_documents_are_one(make: Create, encoder, settings):
    index = make(bm25="standard", settings=settings)
    index.upsert(random_documents(30))
    query = encoder.encode_queries(["brown fox"])
    found = index.candidates(query, 30, text="brown fox")["bm25"]
    assert found
    scores = index.score(query.select(["dense"]), [d.id for d in random_documents(30)], text="brown fox")
    assert {i: score.bm25 for i, score in scores.items() if score.bm25} == pytest.approx(
        {hit.id: hit.score for hit in found}, rel=1e-5
    )
    weights = HybridWeights(dense=1, sparse=0, multi_vector=0, bm25=2)
    for hit in HybridRetriever(index, weights=weights).search("brown fox"):
        assert hit.score == pytest.approx(hit.scores.dense + 2 * hit.scores.bm25)


def test_an_index_without_bm25_says_so(index, encoder):
    with pytest.raises(ValueError, match="no BM25"):
        index.candidates(encoder.encode_queries(["fox"]), 3, text="fox")
