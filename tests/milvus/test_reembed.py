"""Another model, and an alias that moves to its index, on Milvus Lite."""

import pytest

from tests.core.indexing.reembed_suite import ReembedSuite


class TestReembed(ReembedSuite):
    """Each test in a file of its own."""

    @pytest.fixture
    def uri(self, tmp_path):
        return tmp_path / "m3.db"

    @pytest.fixture
    def make(self, create):
        return create

    @pytest.fixture
    def named(self):
        return str
