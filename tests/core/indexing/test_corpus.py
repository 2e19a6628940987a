"""Rows to documents: every line is a document or is rejected by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3plugins import Document
from m3plugins.indexing.corpus import Rejected, document_of, read_corpus


def read(tmp_path: Path, *lines: bytes) -> list[Document | Rejected]:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join(lines))
    return list(read_corpus(path))


def test_keys_that_are_no_field_join_the_metadata(tmp_path: Path) -> None:
    line = b'{"_id": "a", "title": "T", "text": "t", "parent_id": "p", "lang": "en", "metadata": {"year": 2020}}'
    wanted = Document(id="a", title="T", text="t", parent_id="p", metadata={"lang": "en", "year": 2020})
    assert read(tmp_path, line) == [wanted]


def test_id_may_be_spelled_without_underscore_and_be_a_number(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"id": 7, "text": "t", "title": null}') == [Document(id="7", text="t")]


def test_blank_lines_and_a_byte_order_mark_are_no_documents(tmp_path: Path) -> None:
    found = read(tmp_path, b'\xef\xbb\xbf{"_id": "a", "text": "t"}', b"", b"  ", b'{"_id": "b", "text": "t"}')
    assert [document.id for document in found if isinstance(document, Document)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a line of JSON"),
        (b'"text"', "a line must hold a JSON object, got str"),
        (b'{"text": "t"}', r"needs _id \(or id\); this one has text"),
        (b'{"_id": "b"}', "needs text; this one has _id"),
        (b'{"_id": "b", "text": 5}', "text must be a string, got int"),
        (b'{"_id": true, "text": "t"}', "id must be a string, got bool"),
        (b'{"_id": "", "text": "t"}', "id must not be empty"),
        (b'{"_id": "b", "text": "\\ud800"}', "lone surrogate"),
        (b'{"_id": "b", "text": "\xff"}', "not a line of JSON in UTF-8"),
        (b'{"_id": "b", "text": "t", "metadata": [1]}', "metadata must be an object, got list"),
        (b'{"_id": "b", "text": "t", "year": NaN}', "finite"),
        (b"[" * 100_000, "not a line of JSON"),
    ],
)
def test_a_bad_line_is_rejected_by_its_number_and_the_next_one_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    good, bad, other = read(tmp_path, b'{"_id": "a", "text": "t"}', line, b'{"_id": "c", "text": "t"}')
    assert isinstance(good, Document) and isinstance(other, Document)
    assert isinstance(bad, Rejected) and bad.place.endswith("corpus.jsonl:2")
    with pytest.raises(ValueError, match=reason):
        raise ValueError(bad.reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"_id": "b", "text": "t", "text": "u"}', "the key 'text' twice"),
        (b'{"_id": "b", "text": "t", "n": {"a": 1, "a": 2}}', "the key 'a' twice"),
        (b'{"_id": "b", "text": "t", "n": 1, "metadata": {"n": 2}}', "field 'n' has one value beside metadata"),
        (b'{"_id": "b", "text": "t", "metadata": []}', "metadata must be an object, got list"),
        (b'{"_id": "b", "text": "t"}\r{"_id": "d", "text": "t"}', r"end each line with \\n"),
        (b'{"_id": "b", "text": "t"}\0\0\0', "not a line of JSON"),
        ('{"_id": "b", "text": "t"}'.encode("utf-16"), "not a line of JSON in UTF-8"),
        (b'{"_id": "b", "text": "t", "n": ' + b"9" * 5000 + b"}", "not a line of JSON"),
        (b'{"_id": "b", "text": "t", "n": 1e999}', "finite"),
        (b'{"_id": "b", "text": "t", "n": ' + b'{"a": ' * 900 + b"1" + b"}" * 901, "must not nest deeper than 64"),
    ],
)
def test_what_would_be_lost_or_changed_in_reading_is_rejected(tmp_path: Path, line: bytes, reason: str) -> None:
    bad, other = read(tmp_path, line, b'{"_id": "c", "text": "t"}')
    assert isinstance(bad, Rejected) and isinstance(other, Document)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(bad.reason)


@pytest.mark.parametrize("row", [{"k" * 100_000: 1}, {"_id": "a", "text": "t", "k" * 100_000: [None, float("inf")]}])
def test_a_reason_is_short_whatever_it_quotes(row: dict[str, object]) -> None:
    rejected = document_of(row, "here")
    assert isinstance(rejected, Rejected) and len(rejected.reason) < 600
    with pytest.raises(ValueError, match="finite") as refused:
        Document(id="a", text="t", metadata={"k" * 100_000: {"k" * 100_000: float("nan")}}).check()
    assert len(str(refused.value)) < 200
