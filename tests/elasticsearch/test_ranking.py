"""The ranking of Elasticsearch."""

import pytest

from m3plugins import Document, HybridRetriever, M3Encoder
from m3plugins.retrieval import filters
from m3plugins_elasticsearch.identity import OVERSAMPLE
from tests.core.retrieval.ranking_suite import QUERIES, RankingSuite, assert_same_hits, in_memory
from tests.elasticsearch.conftest import Create
from tests.tiny import random_documents, save_checkpoint

pytestmark = pytest.mark.elasticsearch9


class TestRanking(RankingSuite):
    exhaustive = ("sparse",)
    sparse_kept = 2e-3  # 9 significant bits a weight

    @pytest.fixture
    def native(self):
        return {"term": {"metadata.lang": "ja"}}, filters.eq("lang", "ja")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> M3Encoder:
    """With vectors wide enough for Elasticsearch's binary quantisation."""
    return M3Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("wide"), hidden_size=64))


@pytest.mark.parametrize("dense_index", sorted(OVERSAMPLE))
def test_is_brute_force_with_every_dense_index_on_several_shards(make: Create, wide, dense_index):
    index = make(encoder=wide, dense_index=dense_index, settings={"number_of_shards": 3})
    index.upsert(random_documents(60))
    engine = HybridRetriever(index, candidates=60, multi_vector_depth=60)
    brute_force = HybridRetriever(in_memory(index), candidates=60, multi_vector_depth=60)
    for query in QUERIES[::3]:
        assert_same_hits(engine.search(query, 10), brute_force.search(query, 10))


def test_a_filter_that_the_server_cannot_decide_is_decided_here(empty, encoder):
    long = "x" * 20_000
    empty.upsert([Document(id=i, text="a fox", metadata={"note": long + i}) for i in "abc"])
    found = empty.candidates(encoder.encode_queries(["fox"]), 10, filters.contains("note", "xb"))
    assert {hit.id for hits in found.values() for hit in hits} == {"b"}


@pytest.mark.parametrize("k", [0, 10_001])
def test_what_elasticsearch_cannot_search_for_is_refused(index, encoder, k):
    with pytest.raises(ValueError, match="1 to 10,000 documents"):
        index.candidates(encoder.encode_queries(["fox"]), k)
