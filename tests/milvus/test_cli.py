"""`m3` on Milvus Lite, which needs no option."""

import pytest

from m3plugins.cli.printing import without_credentials
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


def test_an_address_is_shown_without_its_password() -> None:
    assert without_credentials("http://me:p@ss@host:19530/db") == "http://host:19530/db"
    assert without_credentials("m3.db") == "m3.db"
