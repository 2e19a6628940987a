"""Text, title and metadata of documents that someone else shaped, at paths as Elasticsearch reads them."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import Document
from m3plugins_elasticsearch.field_paths import FieldPaths, _values, _without

names = st.sampled_from(["a", "b", "a.b", "b.c", "c", "a.b.c"])
paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)
leaves = st.none() | st.integers(0, 9) | st.text("xyz", max_size=2)
sources = st.dictionaries(
    names,
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=10
    ),
    max_size=4,
)


def fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path, as Elasticsearch flattens a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from fields(inner, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, prefix)
    elif value is not None:
        yield prefix, value


@given(sources, paths)
def test_the_values_at_a_path_are_those_that_elasticsearch_finds_there(source, path):
    found = [value for value in _values(path, source) if not isinstance(value, dict)]
    assert sorted(map(repr, found)) == sorted(repr(value) for at, value in fields(source) if at == path)


def apart(source: Any, *paths: str) -> list[tuple[str, Any]]:
    """The values that are not at these paths, nor below them, where a document has none."""
    return [(at, value) for at, value in fields(source) if not f"{at}.".startswith(tuple(f"{p}." for p in paths if p))]


@given(sources, paths)
def test_what_is_left_has_everything_but_the_path(source, path):
    before = repr(source)
    left = _without(path, source)
    assert apart(left, path) == apart(source, path)
    assert not list(_values(path, left))
    assert repr(source) == before


@given(sources, st.sampled_from("abc"), st.sampled_from(["", "a.b", "c"]))
def test_metadata_are_the_fields_that_are_neither_text_nor_title_nor_ours(source, text, title):
    paths = FieldPaths.of({"text": [text], "title": title})
    metadata = paths.metadata({**source, "m3": {"id": "x"}})
    assert apart(metadata, text, title) == apart(source, text, title)
    assert not {at for at, _ in fields(metadata)} & {text, title, "m3", "m3.id"}


SOURCES = [
    ({"body": "fox"}, "fox"),
    ({"body": ["fox", None, ["dog", ["cat"]]]}, "fox\ndog\ncat"),
    ({"body": None}, ""),
    ({"body": []}, ""),
    ({}, ""),
    ({"body": ""}, ""),
    ({"body": 1.5}, "1.5"),
    ({"body": [True, 7]}, "true\n7"),
]


@pytest.mark.parametrize(("source", "text"), SOURCES)
def test_a_text_has_one_value_a_line(source, text):
    paths = FieldPaths.of({"text": ["body"], "title": ""})
    assert paths.document("1", source) == Document(id="1", text=text)


@pytest.mark.parametrize(
    "source",
    [{"a": {"b.c": "fox"}}, {"a.b": {"c": "fox"}}, {"a.b.c": "fox"}, {"a": [{"b": {"c": "fox"}}, {"b": 1, "d": 2}]}],
)
def test_the_dots_of_a_path_are_of_names_or_between_objects(source):
    document = FieldPaths.of({"text": ["a.b.c"], "title": ""}).document("1", {**source, "year": 2020})
    assert document.text == "fox"
    assert "fox" not in repr(document.metadata) and document.metadata["year"] == 2020


def test_several_texts_are_joined_by_newlines_in_the_order_of_the_paths():
    paths = FieldPaths.of({"text": ["end", "begin"], "title": "head"})
    document = paths.document("1", {"begin": "one", "head": ["T", "U"], "end": "two", "m3": {"id": "1"}})
    assert document == Document(id="1", text="two\none", title="T\nU", metadata={})


def test_what_should_be_text_and_is_none_is_named():
    paths = FieldPaths.of({"text": ["body"], "title": ""})
    with pytest.raises(ValueError, match="the field 'body' must hold text, got dict; name another field"):
        paths.document("1", {"body": {"en": "fox"}}, strict=True)


def test_a_document_of_ours_is_what_was_stored():
    source = {"text": "fox", "title": "t", "parent_id": None, "metadata": {"m3": 1, "text": 2}, "revision": "x"}
    assert FieldPaths().document("1", source) == Document(id="1", text="fox", title="t", metadata={"m3": 1, "text": 2})
