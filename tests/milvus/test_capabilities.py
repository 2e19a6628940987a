import pytest

from m3plugins_milvus.capabilities import CURRENT, capabilities

VERSIONS = {
    "milvus_lite-3.2.2": (3, 2, 2),
    "2.6.4": (2, 6, 4),
    "v2.5.13": (2, 5, 13),
    "3.0.0-beta": (3, 0, 0),
    "2.6-20250910-4c2e9a1b": (2, 6),
    "Zilliz Cloud Vector Database(Compatible with Milvus 2.5)": (2, 5),
    "master-20250910-4c2e9a1b": CURRENT,
    "": CURRENT,
}


@pytest.mark.parametrize(("stated", "version"), VERSIONS.items())
def test_every_way_to_state_a_version_is_read_or_taken_for_a_current_server(stated, version):
    able = capabilities(stated)
    assert (able.version, able.lite, able.fault) == (version, stated.startswith("milvus_lite"), None)


def test_a_row_is_replaced_by_upsert_on_servers_and_by_insert_on_lite():
    assert [capabilities(v).write for v in ("2.6.4", "milvus_lite-3.2.2")] == ["upsert", "insert"]


def test_lite_is_asked_for_the_indexes_that_it_has():
    lite, server = capabilities("milvus_lite-3.2.2"), capabilities("2.6.4")
    assert lite.dense_indexes and "FLAT" in lite.dense_indexes and "DISKANN" not in lite.dense_indexes
    assert server.dense_indexes is None


@pytest.mark.parametrize(
    ("stated", "fault"),
    [
        ("2.4.17", "Milvus must be 2.5 or later to have nullable fields, got 2.4.17; upgrade the server"),
        ("milvus_lite-3.2.1", "Milvus Lite must be 3.2.2 or later to rank sparse vectors right, got 3.2.1; upgrade"),
    ],
)
def test_versions_that_lack_what_we_need_are_named(stated, fault):
    assert capabilities(stated).fault.startswith(fault)
