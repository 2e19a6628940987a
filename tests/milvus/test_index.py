"""What goes into Milvus Lite comes out, also where something was lost or interrupted."""

import pytest

from m3plugins import Document
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.core.indexing.index_suite import ODD_IDS, StoredIndexSuite, assert_only_itself

LONGEST = ["x" * 65_535, "é" * 32_767]
INJECTIONS = [*ODD_IDS, *LONGEST]


class TestIndex(StoredIndexSuite):
    pass


@pytest.mark.parametrize("value", LONGEST, ids=lambda value: value[0])
def test_an_id_may_be_as_long_as_is_said(empty, encoder, value):
    assert_only_itself(empty, encoder, value)


def test_no_parent_is_left_of_a_replaced_document(empty):
    empty.upsert([Document(id="a", text="fox", parent_id="p")])
    empty.upsert([Document(id="a", text="fox")])
    assert empty.count('parent_id == "p"') == 0


def test_a_document_whose_blocks_are_lost_is_named(encoder, tmp_path):
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        index.upsert([Document(id="a", text="a fox"), Document(id="b", text="a dog")])
        index._store.blocks.delete([key for page in index._store.blocks.keys() for key in page if ":" in key])
        with pytest.raises(MilvusIndexError, match="'a': its token vectors.* are lost in Milvus; delete it"):
            index.score(encoder.encode_queries(["fox"]), ["a"])
        index.delete(ids=["a"])
        index.upsert([Document(id="a", text="a fox")])
        assert index.score(encoder.encode_queries(["fox"]), ["a"])["a"].multi_vector is not None


def test_a_name_is_usable_after_an_interrupted_create(encoder, tmp_path, monkeypatch):
    from m3plugins_milvus import lifecycle

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "_check_sparse", interrupt)
        with pytest.raises(KeyboardInterrupt):
            MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db")
    with (
        MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index,
        monkeypatch.context() as patch,
    ):
        patch.setattr(type(index._store.blocks), "drop", interrupt)
        with pytest.raises(KeyboardInterrupt):
            index.drop()
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        assert index.count() == 0
