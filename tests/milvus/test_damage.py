"""Damaged files of Milvus Lite: refused by name or answered in full, never fewer results; and nothing is deleted."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from m3plugins.cli.app import run
from m3plugins.cli.checks import Check
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError, damage
from m3plugins_milvus.folder import Folder, aliases_file
from m3plugins_milvus.record import Record
from tests.milvus import damaging
from tests.milvus.conftest import Create
from tests.milvus.damaging import HARMS, KINDS, Answers
from tests.tiny import random_documents

HARMLESS = {
    "LOCK": {"missing", "empty", "cut in half", "bytes flipped", "foreign file beside it"},
    "aliases": {"missing", "foreign file beside it"},
    "schema": {"foreign file beside it"},
    "manifest": {"foreign file beside it"},
    "previous manifest": {*HARMS},
    "record": {*HARMS},
    "search index": {*HARMS},
    "log of rows": {"foreign file beside it"},
    "log of deletions": {"foreign file beside it"},
    "blocks' schema": {"foreign file beside it"},
    "blocks' manifest": {"foreign file beside it"},
    "blocks' log": {"foreign file beside it"},
}
"""What Lite, or a copy of ours, makes good: `benchmarks/lite_damage.py` opens each and compares the answers."""


@pytest.fixture(scope="module")
def killed(encoder: M3Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damaging.build(encoder, tmp_path_factory.mktemp("damage"))


@pytest.fixture
def uri(killed: Path, tmp_path: Path) -> Path:
    return damaging.copy(killed, tmp_path / "m3.db")


@pytest.fixture(scope="module")
def whole(encoder: M3Encoder, killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the undamaged index answers."""
    return damaging.answers(encoder, damaging.copy(killed, tmp_path_factory.mktemp("whole") / "m3.db"))


def pair(uri: Path) -> tuple[Folder, Folder]:
    return Folder.of(uri, "", "docs"), Folder.of(uri, "", "docs__mv")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """One that every user may enter, where those of pytest are its user's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_that_could_lose_a_row_is_found(killed: Path, open_folder: Path, kind: str) -> None:
    missed = {}
    for way in HARMS:
        uri = damaging.copy(killed, open_folder / "m3.db")
        file = damaging.harm(uri, kind, way)
        if file is None:
            continue
        with damaging.unprivileged(uri) if way == "permission denied" else nullcontext():
            found = [*damage.find_in_index(*pair(uri)), *damage.damaged_aliases(uri)]
        named = {one.file.name for one in found} & {file.name, "notes.txt"}
        if bool(named) == (way in HARMLESS.get(kind, set())):
            missed[way] = found
    assert not {way: found for way, found in missed.items() if (kind, way) != ("LOCK", "permission denied")}


@pytest.mark.parametrize(
    ("kind", "way"),
    [("schema", "missing"), ("manifest", "empty"), ("log of rows", "cut in half"), ("rows", "bytes flipped")],
)
def test_a_damaged_index_is_refused_by_every_verb_and_no_file_changes(
    encoder: M3Encoder, checkpoint: Path, uri: Path, tmp_path: Path, capsys, kind: str, way: str
) -> None:
    file = damaging.harm(uri, kind, way)
    (uri / "collections" / "docs" / "theirs.txt").write_text("a foreign file")
    before = content(uri / "collections")
    (tmp_path / "a.txt").write_text("a fox")
    where = ["--uri", str(uri)]
    for arguments in (
        ["index", str(tmp_path / "a.txt"), *where, "--model", str(checkpoint)],
        ["search", "fox", *where, "--model", str(checkpoint)],
        ["info", *where],
        ["list", *where],
    ):
        assert run(arguments) != 0
        told = capsys.readouterr()
        assert file.name in told.err and "m3 doctor" in told.err and not told.out
    with pytest.raises(MilvusIndexError, match=file.name):
        MilvusHybridIndex.drop_index("docs", uri=uri)
    assert content(uri / "collections") == before


@pytest.mark.parametrize("kind", ["schema", "manifest", "aliases"])
def test_json_that_nests_deeper_than_python_reads_is_damage(uri: Path, kind: str) -> None:
    folder = Folder.of(uri, "", "docs")
    file = {"schema": folder.schema, "manifest": folder.manifest, "aliases": aliases_file(uri, "")}[kind]
    file.write_text("[" * 100_000)
    found = [*damage.find_in_index(*pair(uri)), *damage.damaged_aliases(uri)]
    assert {(one.file.name, one.fault) for one in found} >= {(file.name, "is damaged")}


@pytest.mark.parametrize("kind", ["search index", "record", "previous manifest"])
def test_what_can_be_made_anew_is_and_answers_are_complete(
    encoder: M3Encoder, uri: Path, whole: Answers, kind: str
) -> None:
    assert damaging.outcome(encoder, uri, kind, "bytes flipped", whole) == "complete"


def test_a_collection_that_is_gone_is_missed_and_what_is_left_stays(encoder: M3Encoder, uri: Path) -> None:
    for gone, left in (("docs", "docs__mv"), ("docs__mv", "docs")):
        aside = shutil.move(uri / "collections" / gone, uri / "aside")
        before = content(uri / "collections" / left)
        with pytest.raises(MilvusIndexError, match=f"{gone} is missing"):
            MilvusHybridIndex.open_or_create("docs", encoder=encoder, uri=uri)
        assert content(uri / "collections" / left) == before
        shutil.move(aside, uri / "collections" / gone)


def test_what_a_killed_making_left_is_made_anew_unless_anything_is_in_it(encoder: M3Encoder, uri: Path) -> None:
    begun = uri / "collections" / "new"
    (begun / "wal").mkdir(parents=True)
    (begun / "schema.json.tmp").write_text("{")
    MilvusHybridIndex.create("new", encoder=encoder, uri=uri).close()
    MilvusHybridIndex.drop_index("new", uri=uri)
    begun.mkdir()
    (begun / "notes.txt").write_text("theirs")
    with pytest.raises(MilvusIndexError, match="schema.json is missing"):
        MilvusHybridIndex.create("new", encoder=encoder, uri=uri)
    assert (begun / "notes.txt").read_text() == "theirs"


def test_a_drop_takes_no_foreign_file_and_one_that_was_killed_is_finished(
    create: Create, encoder: M3Encoder, tmp_path: Path
) -> None:
    index = create()
    index.upsert(random_documents(5))
    notes = tmp_path / "m3.db" / "collections" / "docs" / "notes.txt"
    notes.write_text("theirs")
    with pytest.raises(ValueError, match="notes.txt is not of Milvus Lite"):
        index.drop()
    assert index.count() == 5
    notes.unlink()
    index.close()
    for folder in pair(tmp_path / "m3.db"):  # as a drop marks them before it begins
        folder.dropping.touch()
    Folder.of(tmp_path / "m3.db", "", "docs").schema.unlink()
    with MilvusHybridIndex.open_or_create("docs", encoder=encoder, uri=tmp_path / "m3.db") as again:
        assert again.count() == 0
        again.upsert(random_documents(3))
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db") as again:
        assert again.count() == 3


def test_an_index_whose_identity_is_lost_is_not_made_anew(create: Create, encoder: M3Encoder, tmp_path: Path) -> None:
    index = create()
    index.upsert(random_documents(2))  # fewer than a new index is tried with
    index._store.blocks.delete(["identity"])
    index.close()
    with pytest.raises(MilvusIndexError, match="the identity of the index 'docs' is lost"):
        MilvusHybridIndex.open_or_create("docs", encoder=encoder, uri=tmp_path / "m3.db")


def test_sweep_deletes_nothing_where_rows_may_have_been_lost(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    from m3plugins_milvus import store, writer

    monkeypatch.setattr(writer, "LEFT_AT_ONCE", 4)
    index = create()
    index.upsert([document for document in random_documents(30) if document.text])
    ids = [document.id for document in index.scan()]
    index._store.documents.delete(store.keys_of(ids[:-3]))  # their blocks stay, as if rows had been lost
    stored = index._store.blocks.count()
    with pytest.raises(MilvusIndexError, match=r"documents that 'docs' does not have.*sweep\(force=True\)"):
        index.sweep()
    assert index._store.blocks.count() == stored
    assert index.sweep(force=True) > 0
    assert index.sweep() == 0 and index.count() == 3


# Repair


def doctor(uri: Path, *, repair: bool = False) -> dict[str, Check]:
    return {check.name: check for check in MilvusHybridIndex.checks(uri=str(uri), repair=repair)}


@pytest.mark.parametrize(
    ("kind", "way", "recorded"),
    [
        ("schema", "missing", True),
        ("schema", "empty", False),
        ("manifest", "empty", True),
        ("manifest", "missing", False),
        ("blocks' schema", "missing", False),
        ("blocks' manifest", "bytes flipped", False),
    ],
)
def test_doctor_explains_and_restores_a_schema_or_a_manifest_without_a_loss(
    encoder: M3Encoder, uri: Path, whole: Answers, kind: str, way: str, recorded: bool
) -> None:
    file = damaging.harm(uri, kind, way)
    if not recorded:  # an index made before there were records
        for record in uri.glob("collections/*/m3plugins.record"):
            record.unlink()
    if "manifest" in kind:
        file.with_name("manifest.json.prev").unlink()
    before = content(uri)
    told = doctor(uri)[f"collection {file.parent.name}"]
    assert told.status == "broken" and file.name in told.detail and told.fix.endswith("--repair")
    assert content(uri) == before
    assert doctor(uri, repair=True)[f"collection {file.parent.name}"].status == "warn"
    if way != "missing":
        (kept,) = uri.glob(f"replaced-by-m3-doctor/*/collections/{file.parent.name}/{file.name}")
        assert kept.read_bytes() == before[str(file.relative_to(uri))]
    assert doctor(uri)["index docs"].status == "ok"
    assert damaging.answers(encoder, uri) == whole


def test_doctor_says_how_many_rows_are_lost_and_the_rest_can_be_had(encoder: M3Encoder, uri: Path) -> None:
    file = damaging.harm(uri, "rows", "cut in half")
    rows = Record.read(Folder.of(uri, "", "docs")).files["_default/data/" + file.name].rows
    assert f"{file.name} is lost with {rows:,} rows" in doctor(uri)["collection docs"].detail
    doctor(uri, repair=True)
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=uri) as index:
        assert 0 < index.count() < 30
        index.upsert(random_documents(24))
        assert index.count() == 30 + 1  # and the one that was deleted


def test_a_repair_that_is_not_possible_says_so_and_changes_nothing(uri: Path) -> None:
    shutil.rmtree(uri / "collections" / "docs")
    before = content(uri)
    told = doctor(uri, repair=True)["collection docs"]
    assert told.status == "broken" and "from a copy" in told.fix
    assert content(uri) == before


def test_doctor_leaves_files_alone_that_are_in_use(create: Create, tmp_path: Path, capsys) -> None:
    create()
    assert run(["doctor", "--uri", str(tmp_path / "m3.db"), "--repair", "--json"]) == 1
    (told,) = (check for check in json.loads(capsys.readouterr().out)["checks"] if check["name"] == "milvus")
    assert "a process has it open" in told["detail"]
