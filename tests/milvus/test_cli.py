"""`m3` on Milvus Lite, which needs no option."""

import pytest

from m3plugins.cli.printing import without_credentials
from m3plugins_milvus import MilvusHybridIndex
from m3plugins_milvus.rows import key_of
from tests.core.cli.engine_suite import EngineCliSuite


class TestCli(EngineCliSuite):
    engine = "milvus"

    @pytest.fixture
    def where(self):
        return []

    @pytest.fixture
    def name(self):
        return "docs"

    @pytest.fixture
    def uri(self, tmp_path):
        return tmp_path / "m3.db"

    def test_a_document_that_cannot_be_read_is_deleted_by_its_id(self, m3, indexed, held, encoder, uri):
        with MilvusHybridIndex.open("docs", encoder=encoder, uri=uri) as index:
            documents = index._store.documents
            (row,) = documents.fetch([key_of("d1")], ["*"]).values()
            documents.upsert([{**row, "text_blocks": 2}])
        before = held()["documents"]
        assert m3("delete", "d1", "d2") == 0
        assert held()["documents"] == before - 2


def test_an_address_is_shown_without_its_password() -> None:
    assert without_credentials("http://me:p@ss@host:19530/db") == "http://host:19530/db"
    assert without_credentials("m3.db") == "m3.db"
