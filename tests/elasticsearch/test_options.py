"""Options of a new index that are of no use are told as such, before anything is sent."""

import pytest

from m3plugins_elasticsearch import ElasticsearchHybridIndex


@pytest.mark.parametrize("fields", [["a"], "a", {"a": "date"}, {1: {"type": "date"}}, 5, [("a", {})]], ids=str)
def test_metadata_fields_are_mappings_by_field(encoder, fields):
    with pytest.raises(
        TypeError, match='metadata_fields must be mappings by field, as in {"year": {"type": "integer"}}, got'
    ):
        ElasticsearchHybridIndex.create("docs", encoder=encoder, uri="http://127.0.0.1:9", metadata_fields=fields)


@pytest.mark.parametrize("kind", ["bbq_disk", ["a"], {}, {"m": 16}, {"type": ["hnsw"]}, 5], ids=str)
def test_a_dense_index_is_of_a_type_that_keeps_whole_vectors(encoder, kind):
    with pytest.raises(ValueError, match="dense_index must be of a type among flat, hnsw, .*, got"):
        ElasticsearchHybridIndex.create("docs", encoder=encoder, uri="http://127.0.0.1:9", dense_index=kind)
