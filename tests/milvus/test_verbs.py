"""The verbs on Milvus Lite, and tenants."""

from dataclasses import replace

import pytest

from m3plugins import Document, HybridRetriever
from m3plugins.retrieval import filters
from m3plugins_milvus.filters import compile_filter
from tests.core.indexing.races_suite import RacesSuite
from tests.core.indexing.verbs_suite import Bm25Suite, StoredVerbsSuite


class TestVerbs(StoredVerbsSuite):
    def assert_tidy(self, index):
        assert index.sweep() == 0


class TestRaces(RacesSuite):
    pass


class TestBm25(Bm25Suite):
    pass


@pytest.fixture(scope="module")
def tenants(make):
    return make(tenant="customer")


def test_tenants_are_partitions_and_filters_read_their_own(tenants):
    documents = [Document(id=f"{n}", text=f"fox {n}", metadata={"customer": f"c{n % 3}", "n": n}) for n in range(12)]
    assert tenants.upsert(documents).written == 12
    wanted = filters.and_(filters.eq("customer", "c1"), filters.gt("n", 3))
    assert {d.id for d in tenants.scan(wanted)} == {"4", "7", "10"}
    hits = HybridRetriever(tenants).search("fox", k=12, filter=filters.in_("customer", ["c0", "c2"]))
    assert {hit.metadata["customer"] for hit in hits} == {"c0", "c2"} and len(hits) == 8
    moved = replace(documents[1], metadata={"customer": "c2", "n": 1})
    assert tenants.upsert([moved]).written == 1
    assert [tenants.count(filters.eq("customer", f"c{n}")) for n in range(3)] == [4, 3, 5]
    assert tenants.count() == 12
    tenants.update_metadata({"4": {"customer": "c0", "n": 4}})
    assert tenants.get(["4"])[0].metadata["customer"] == "c0"
    assert (tenants.count(), tenants.count(filters.eq("customer", "c1"))) == (12, 2)
    assert tenants.delete(filter=filters.eq("customer", "c0")) == 5


def test_a_document_without_its_tenant_is_refused(tenants):
    report = tenants.upsert([Document(id="a", text="x"), Document(id="b", text="x", metadata={"customer": ["c"]})])
    assert [failure.id for failure in report.failed] == ["a", "b"]
    assert "by which this index is partitioned" in report.failed[0].reason


def test_only_a_filter_that_pins_the_tenant_names_partitions():
    pinned = filters.and_(filters.gt("n", 1), filters.or_(filters.eq("a", 1)), filters.eq("customer", "c"))
    assert "tenant in" in compile_filter(pinned, "customer").expression
    for free in (filters.ne("customer", "c"), filters.or_(filters.eq("customer", "c"), filters.eq("n", 1)), None):
        assert "tenant" not in compile_filter(free, "customer").expression
    assert "tenant" not in compile_filter(pinned).expression
