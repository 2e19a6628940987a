"""The ranking of Milvus Lite."""

import pytest

from m3plugins import M3Encoder
from m3plugins.retrieval import filters
from m3plugins_milvus import collection
from tests.core.retrieval.ranking_suite import RankingSuite
from tests.milvus.conftest import Create
from tests.tiny import random_documents


class TestRanking(RankingSuite):
    @pytest.fixture
    def native(self):
        return 'metadata["number"] >= 90', filters.gte("number", 90)

    def test_limits_on_rows_do_not_show(self, index, oracle, encoder, monkeypatch):
        monkeypatch.setattr(collection, "MAX_ROWS", 8)
        query = encoder.encode_queries(["The quick brown fox"])
        for wanted in (None, filters.eq("lang", "de"), filters.gt("number", 80)):
            assert {d.id for d in index.scan(wanted)} == {d.id for d in oracle.scan(wanted)}
            assert index.count(wanted) == oracle.count(wanted)
            for head, hits in oracle.candidates(query, 30, wanted).items():
                assert [hit.id for hit in index.candidates(query, 30, wanted)[head]] == [hit.id for hit in hits]


def test_an_approximate_dense_index_can_be_chosen(make: Create, encoder: M3Encoder):
    index = make(dense_index={"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}})
    index.upsert(random_documents(20))
    assert len(index.candidates(encoder.encode_queries(["fox"]), 5)["dense"]) == 5
