"""The fuzzer finds what is planted, and nothing where nothing is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st

from benchmarks.fuzz import codecs
from benchmarks.fuzz.checkpoints import Checkpoints
from benchmarks.fuzz.corpora import Corpora
from benchmarks.fuzz.edits import Case, Edit, from_json, to_json, tree_edits
from benchmarks.fuzz.failures import Failure, require
from benchmarks.fuzz.references import records
from benchmarks.fuzz.report import markdown
from benchmarks.fuzz.rows import rows
from benchmarks.fuzz.search import search
from m3plugins import M3Encoder
from m3plugins.cli import inputs
from m3plugins.compression import Int8Codec
from m3plugins_milvus import reader

TREE = {"a": 1, "b": [1, 2], "c": {"d": "x"}}


class Planted:
    """Fails where "b" has one item, and, of another class, where "d" is gone."""

    name = "planted"
    cases = st.lists(tree_edits("tree", TREE), min_size=1, max_size=2).map(tuple)

    def check(self, case: Case) -> str | None:
        tree = TREE
        for edit in case:
            tree = edit.tree(tree)
        if isinstance(tree, dict) and isinstance(tree.get("b"), list):
            require(len(tree["b"]) != 1, "b", tree)
        if isinstance(tree, dict) and isinstance(tree.get("c"), dict):
            require("d" in tree["c"], "d", tree)
        return "fine"


def test_every_class_of_failure_is_found_shrunk_and_counted_with_a_command_that_shows_it_again() -> None:
    tally = search(Planted(), seconds=60, seed=0, executions=200)
    assert {kind: len(from_json(found.case)) for kind, found in tally.findings.items()} == {"b": 1, "d": 1}
    assert all(found.seen > 1 for found in tally.findings.values()) and tally.remarks["fine"]
    for found in tally.findings.values():
        case = shlex.split(tally.reproducer(found))[-1]
        with pytest.raises(Failure, match=found.kind):
            Planted().check(from_json(case))
    assert markdown([tally]).count("\n| planted |") == 3


def test_a_case_survives_json() -> None:
    case = (Edit("a", "set", ("b", 0), "\ud800"), Edit("a", "splice", (0, 3), "\xff\0"))
    assert from_json(to_json(case)) == case


def test_a_model_that_encodes_otherwise_under_the_same_fingerprint_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = (Edit("model-00001-of-00003.safetensors", "fill", ("embeddings.LayerNorm.bias",), 3.0),)
    assert Checkpoints(tmp_path / "sound").check(case) is None
    monkeypatch.setattr(M3Encoder, "fingerprint", "same")
    with pytest.raises(Failure, match="one fingerprint for two models"):
        Checkpoints(tmp_path / "planted").check(case)


def test_a_record_that_is_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, case = Corpora(tmp_path), (Edit("jsonl/corpus.jsonl", "set", (0, "text"), "fox"),)
    assert target.check(case) is None
    read = inputs.read_places

    def lossy(path: Path) -> Iterator[object]:
        return (pair for number, pair in enumerate(read(path)) if number != 1)

    monkeypatch.setattr(inputs, "read_places", lossy)
    with pytest.raises(Failure, match="a record is lost"):
        target.check(case)


def test_a_stored_document_that_comes_back_as_another_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("M3_TEST_ES_ZIP", "M3_TEST_ES_URL"):
        monkeypatch.delenv(name, raising=False)
    read, case = reader.to_document, (Edit("milvus/title", "set", (), "Dog"),)
    with rows(tmp_path) as target:
        assert target.check(case) == "damage that no read sees and that counts as unchanged"
        monkeypatch.setattr(reader, "to_document", lambda *row: replace(read(*row), title="planted"))
        with pytest.raises(Failure, match="another document"):
            target.check(case)


def test_a_codec_whose_products_are_not_those_of_what_it_decodes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = Edit("codec/int8", "splice", (18, 36), "")
    codecs.check(edit)
    decode = Int8Codec.decode
    monkeypatch.setattr(Int8Codec, "decode", lambda *arguments: 2 * decode(*arguments))
    with pytest.raises(Failure, match="products"):
        codecs.check(edit)


def test_the_reference_reads_tables_as_rfc_4180_says(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\na,"x ""y"",\r\nz"\r\n\r\nb,plain\rc,"never closed\nd,e\n')
    found = [(record.id, record.text, sorted(record.places)) for record in records(path, "f", "")]
    assert found == [
        ("a", 'x "y",\r\nz', ["f:2", "f:3"]),
        ("b", "plain", ["f:5"]),
        (None, None, ["f:6", "f:7"]),
    ]
