"""Indexes of Milvus Lite, and of one that several processes reach, by name."""

import json
from contextlib import closing

import pytest
from pymilvus import DataType, MilvusClient

from m3plugins.indexing import IndexExistsError
from m3plugins_milvus import MilvusHybridIndex, lifecycle, schema
from m3plugins_milvus.blocks import block_row
from m3plugins_milvus.client import connect
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.identity import IDENTITY_KEY
from tests.core.indexing.lifecycle_suite import LifecycleSuite, in_processes
from tests.milvus.gateway import gateway


class TestLifecycle(LifecycleSuite):
    """Each test in a file of its own."""

    engine = MilvusHybridIndex

    @pytest.fixture
    def uri(self, tmp_path):
        return tmp_path / "m3.db"

    @pytest.fixture
    def where(self, uri):
        return {"uri": uri}

    @pytest.fixture
    def make(self, create):
        return create

    @pytest.fixture
    def named(self):
        return lambda name: f"m3_{name}"

    @pytest.fixture
    def stored(self):
        def read(index):
            blocks = index._store.blocks
            (row,) = blocks.fetch([IDENTITY_KEY], ["data"]).values()
            return json.loads(row["data"]), lambda data: blocks.upsert([block_row(IDENTITY_KEY, json.dumps(data))])

        return read

    def test_where_there_is_no_file_there_are_no_indexes_and_none_is_made(self, uri):
        assert MilvusHybridIndex.list_indexes(uri=uri) == []
        assert not uri.exists()

    def test_foreign_collections_are_not_listed_and_not_dropped(self, make, uri):
        make("ours")
        theirs = MilvusClient(str(uri))
        schema = theirs.create_schema()
        schema.add_field("key", DataType.VARCHAR, max_length=32, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
        for name in ("foreign", "foreign__mv"):
            theirs.create_collection(name, schema=schema)
        assert MilvusHybridIndex.list_indexes(uri=uri) == ["ours"]
        with pytest.raises(ValueError, match="was not made by MilvusHybridIndex"):
            MilvusHybridIndex.drop_index("foreign", uri=uri)
        assert theirs.has_collection("foreign")
        theirs.close()


def test_an_index_made_before_names_were_recorded_opens(create, encoder, tmp_path):
    index = create(codec="int8")
    (row,) = index._store.blocks.fetch([IDENTITY_KEY], ["data"]).values()
    stored = json.loads(row["data"])
    del stored["model"]
    index._store.blocks.upsert([block_row(IDENTITY_KEY, json.dumps(stored))])
    with MilvusHybridIndex.open_or_create("docs", encoder=encoder, uri=tmp_path / "m3.db") as again:
        assert (again.identity.model, again.identity.codec, again.describe().model) == ("", "int8", "")


def test_processes_that_begin_at_once_have_one_index(encoder, tmp_path):
    with gateway(tmp_path / "m3.db") as served:
        assert in_processes(MilvusHybridIndex, encoder, "docs", served.uri, 3) == []
        with MilvusHybridIndex.open("docs", encoder=encoder, uri=served.uri) as index:
            assert {document.id for document in index.scan()} == {"doc-0", "doc-1", "doc-2"}


@pytest.fixture
def unfinished(encoder, tmp_path):
    """Where another process is at the last step of making an index, or was killed there; and that step."""
    with gateway(tmp_path / "m3.db") as served, closing(connect(served.uri)) as connection:
        blocks = Collection(connection, "docs__mv")
        with MilvusHybridIndex.create("docs", encoder=encoder, uri=served.uri) as index:
            blocks.delete([IDENTITY_KEY])
        yield {"encoder": encoder, "uri": served.uri}, lambda: index.identity.write(blocks)


def test_an_index_that_another_process_is_making_is_waited_for(unfinished, monkeypatch):
    where, finish = unfinished
    waits = []
    monkeypatch.setattr(lifecycle.time, "sleep", lambda seconds: (waits.append(seconds), finish()))
    with MilvusHybridIndex.open_or_create("docs", **where, codec="binary") as index:
        assert (index.count(), len(waits)) == (0, 1)


def test_an_index_that_another_process_begins_while_this_one_looks_is_not_taken_for_left_over(
    encoder, tmp_path, monkeypatch
):
    look = lifecycle._is_unfinished
    with gateway(tmp_path / "m3.db") as served:

        def late(documents, blocks):
            """The other process has made the first of the two collections right after the first look."""
            found = look(documents, blocks)
            monkeypatch.setattr(lifecycle, "_is_unfinished", look)
            lifecycle._make(blocks, schema.blocks_schema(), schema.blocks_index(), [])
            return found

        monkeypatch.setattr(lifecycle, "_is_unfinished", late)
        with pytest.raises(IndexExistsError):
            MilvusHybridIndex.create("docs", encoder=encoder, uri=served.uri)
        with closing(connect(served.uri)) as connection:
            assert connection.client.has_collection("docs__mv")


def test_what_a_killed_process_left_on_a_server_is_made_anew_after_a_while(unfinished, monkeypatch):
    where, _ = unfinished
    monkeypatch.setattr(lifecycle, "PATIENCE_S", 0.0)
    with MilvusHybridIndex.open_or_create("docs", **where, codec="int8") as index:
        assert (index.count(), index.identity.codec) == (0, "int8")
