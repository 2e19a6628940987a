"""The names that users type: frozen, so that one cannot vanish unnoticed."""

from importlib.metadata import entry_points
from pathlib import Path

import m3plugins_elasticsearch
from m3plugins.indexing.registry import GROUP, load_engine

NAMES = (
    "AsyncM3EmbeddingService AsyncM3RetrievalStrategy AttachedIndex Capabilities ElasticsearchHybridIndex "
    "ElasticsearchIndexError EnrichReport Enricher M3EmbeddingService M3RetrievalStrategy Metrics Reembedding "
    "VerifyReport check_versions"
)


def test_all_is_what_it_was():
    assert sorted(m3plugins_elasticsearch.__all__) == sorted(NAMES.split())
    assert all(hasattr(m3plugins_elasticsearch, name) for name in m3plugins_elasticsearch.__all__)


def test_types_are_shipped():
    assert (Path(m3plugins_elasticsearch.__file__).parent / "py.typed").is_file()


def test_the_engine_is_found_by_its_name():
    assert load_engine("elasticsearch") is m3plugins_elasticsearch.ElasticsearchHybridIndex
    assert "elasticsearch" in {point.name for point in entry_points(group=GROUP)}
