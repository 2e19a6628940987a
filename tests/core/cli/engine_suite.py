"""`m3 index`, `m3 search` and `m3 evaluate` on any engine, found by its entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3plugins import HybridRetriever, loaders
from m3plugins.cli.app import run
from tests.tiny import SENTENCES, save_checkpoint

M3 = Callable[..., int]


def write(path: Path, texts: list[str]) -> Path:
    rows = [{"_id": f"d{i}", "title": "T", "text": text, "number": i} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


class EngineCliSuite:
    """Subclasses have the fixtures `where`, `name` and `reopen`.

    These are the arguments that lead to an index of the test's own, its name, and what opens it by that.

    Attributes:
        engine: The name of the engine.
    """

    engine: str

    @pytest.fixture
    def m3(self, where: list[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> M3:
        """Runs a verb in a folder of the test's own, on an index of its own."""
        monkeypatch.chdir(tmp_path)
        return lambda verb, *arguments, model=checkpoint: run([verb, *where, "--model", str(model), *arguments])

    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        return write(tmp_path / "corpus.jsonl", [*SENTENCES, "[/bold] \x1b[31m"])

    @pytest.fixture
    def indexed(self, m3: M3, corpus: Path, capsys) -> dict[str, Any]:
        """What `m3 index` told of the corpus."""
        assert m3("index", "corpus.jsonl", "--json") == 0
        return printed(capsys)

    # m3 index

    def test_an_index_is_made_then_only_what_changed_is_written(self, m3, corpus, indexed, capsys):
        assert (indexed["written"], indexed["unchanged"], indexed["failed"]) == (len(SENTENCES) + 1, 0, [])
        write(corpus, [*SENTENCES, "another text"])
        assert m3("index", "corpus.jsonl", "--json") == 0
        second = printed(capsys)
        assert (second["written"], second["unchanged"]) == (1, len(SENTENCES))
        assert second["documents"] == indexed["documents"] == len(SENTENCES) + 1

    def test_a_bad_line_is_named_the_others_are_indexed_and_the_exit_code_is_1(self, m3, corpus, capsys):
        corpus.write_text("not json\n" + corpus.read_text())
        assert m3("index", "corpus.jsonl") == 1
        out, err = capsys.readouterr()
        assert f"{len(SENTENCES) + 1} written, 0 unchanged, 1 failed" in out
        assert "corpus.jsonl:1: not a line of JSON" in err
        assert err.splitlines()[-1].startswith("m3: 1 documents were not")

    def test_another_models_index_is_refused_and_kept(self, m3, indexed, tmp_path, capsys):
        other = save_checkpoint(tmp_path / "other", hidden_size=16)
        capsys.readouterr()
        assert m3("index", "corpus.jsonl", model=other) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert m3("index", "corpus.jsonl", "--json") == 0
        assert printed(capsys)["unchanged"] == indexed["written"]

    def test_of_one_id_twice_the_first_is_indexed_and_both_places_are_told(self, m3, corpus, capsys):
        corpus.write_text(corpus.read_text() + '{"_id": "d1", "text": "again"}\n')
        assert m3("index", "corpus.jsonl", "--json") == 1
        told = printed(capsys)
        assert told["written"] == told["documents"] == len(SENTENCES) + 1
        (failed,) = told["failed"]
        assert failed["place"] == f"corpus.jsonl:{len(SENTENCES) + 2}" and "corpus.jsonl:2 already" in failed["reason"]

    def test_a_codec_is_that_of_a_new_index_and_another_is_refused(self, m3, corpus, name, reopen, capsys):
        assert m3("index", "corpus.jsonl", "--codec", "float16") == 0
        with reopen(name) as index:
            assert index.identity.codec == "float16"
        assert m3("index", "corpus.jsonl", "--codec", "float16") == 0
        assert m3("index", "corpus.jsonl", "--codec", "binary") == 2
        assert m3("index", "corpus.jsonl", "--codec", "float8") == 2
        assert "--codec must be one of" in capsys.readouterr().err

    @pytest.fixture
    def notes(self, tmp_path: Path) -> Path:
        for name, text in {"a.md": "# Foxes\n\nThey run.", "sub/b.txt": "dogs", "c.png": "no text"}.items():
            (tmp_path / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "notes" / name).write_text(text)
        return tmp_path / "notes"

    def test_files_have_their_places_as_metadata_and_the_skipped_are_told(self, m3, notes, capsys):
        assert m3("index", "notes") == 0
        assert "skipped 1 files: 1 .png" in capsys.readouterr().out
        assert m3("search", "foxes", "--json", "--filter", '{"eq": {"folder": "."}}') == 0
        (hit,) = printed(capsys)["hits"]
        assert hit["metadata"] == {"path": "a.md", "folder": ".", "title": "Foxes", "source": str(notes.resolve())}

    # m3 index --prune

    @pytest.mark.parametrize("cut", [[], ["--passages", "40"]])
    def test_files_that_are_gone_are_pruned_and_nothing_of_other_sources(self, m3, notes, corpus, cut, capsys):
        (notes.parent / "others").mkdir()
        (notes.parent / "others" / "o.txt").write_text("another folder")
        for source in ("corpus.jsonl", "others", "notes"):
            assert m3("index", source, "--json", *cut) == 0
            before = printed(capsys)["documents"]
        (notes / "sub" / "b.txt").unlink()
        assert m3("index", "notes", "--prune", "--json") == 0
        told = printed(capsys)
        assert (told["pruned"], told["documents"], told["unchanged"]) == (1, before - 1, 1)
        assert m3("index", "notes", "--prune") == 0
        assert "pruned 0 documents" in capsys.readouterr().out

    def test_lines_that_are_gone_are_pruned_but_no_files(self, m3, notes, corpus, indexed, capsys):
        assert m3("index", "notes") == 0
        write(corpus, SENTENCES[:2])
        capsys.readouterr()
        assert m3("index", "corpus.jsonl", "--prune", "--json") == 0
        told = printed(capsys)
        assert (told["pruned"], told["documents"]) == (len(SENTENCES) - 1, 2 + 2)

    @pytest.mark.parametrize("content", ["not json\n", "", '{"_id": "x", "text": "t"}\n{"_id": "y"}\n'])
    def test_nothing_is_pruned_unless_all_was_read(self, m3, corpus, indexed, content, capsys):
        corpus.write_text(content)
        assert m3("index", "corpus.jsonl", "--prune", "--json") == 1
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert told["pruned"] is None and told["documents"] == indexed["documents"] + told["written"]
        assert "nothing was pruned" in err

    def test_one_file_of_text_cannot_be_pruned(self, m3, notes, capsys):
        assert m3("index", "notes/a.md", "--prune") == 2
        assert "--prune takes a folder" in capsys.readouterr().err

    def test_a_missing_extra_is_told_first_and_nothing_is_pruned_without_it(self, m3, notes, monkeypatch, capsys):
        monkeypatch.setattr(loaders, "installed", lambda suffix: suffix == ".md")
        assert m3("index", "notes", "--json") == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["skipped"] == {".png": 1, ".txt": 1}
        assert err.splitlines()[0].startswith("m3: 1 .txt will be skipped") and "m3plugins[loaders]" in err
        assert m3("index", "notes", "--prune") == 2
        assert "must read all of notes; 1 .txt need" in capsys.readouterr().err

    # m3 search

    def test_a_search_shows_what_the_retriever_finds(self, m3, indexed, name, reopen, capsys):
        assert m3("search", SENTENCES[0], "--json", "-k", "4") == 0
        hits = printed(capsys)["hits"]
        with reopen(name) as index:
            wanted = HybridRetriever(index).search(SENTENCES[0], k=4)
        assert [hit["id"] for hit in hits] == [hit.id for hit in wanted]
        assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in wanted])
        assert hits[0]["metadata"] == dict(wanted[0].metadata)

        assert m3("search", SENTENCES[0], "--json", "--filter", '{"gte": {"number": 9}}') == 0
        assert {hit["id"] for hit in printed(capsys)["hits"]} == {f"d{i}" for i in range(9, len(SENTENCES) + 1)}

    def test_an_explanation_adds_up_and_shows_no_control_characters(self, m3, indexed, capsys):
        assert m3("search", SENTENCES[0], "--json", "--explain", "-k", "2") == 0
        explained = printed(capsys)
        assert explained["heads"]["union"] == len(SENTENCES) + 1
        assert set(explained["hits"][0]["ranks"]) == {"dense", "sparse", "multi_vector"}
        for hit in explained["hits"]:
            assert sum(hit["contributions"].values()) == pytest.approx(hit["score"])
            for head, matches in {"sparse": "shared_tokens", "multi_vector": "nearest_tokens"}.items():
                contributions = [match["contribution"] for match in hit[matches]]
                assert sum(contributions) == pytest.approx(hit["scores"][head], rel=1e-4)

        assert m3("search", "fox", "--explain", "-k", "20") == 0
        out = capsys.readouterr().out
        assert "= dense " in out and "shared: " in out and "nearest: " in out and "first choice" in out
        assert "[/bold]" in out and "\x1b" not in out

    @pytest.mark.parametrize("filter_", ["{", '{"like": {"a": "b"}}', "[]"])
    def test_a_filter_that_cannot_be_read_is_a_wrong_call(self, m3, filter_, capsys):
        assert m3("search", "q", "--filter", filter_) == 2
        assert capsys.readouterr().err.startswith("m3: --filter: ")

    def test_a_missing_index_is_a_wrong_call(self, m3, name, capsys):
        assert m3("search", "q") == 2
        err = capsys.readouterr().err
        assert f"there is no index '{name}'" in err and err.count("\n") == 1

    # Passages

    def test_passages_are_cut_and_found_once_a_document(self, m3, tmp_path, capsys):
        write(tmp_path / "corpus.jsonl", [" ".join(SENTENCES[:3]), "a short one", " ".join(SENTENCES[3:6])])
        assert m3("index", "corpus.jsonl", "--passages", "40", "--overlap", "8", "--json") == 0
        done = printed(capsys)
        assert done["written"] == done["documents"] == 3 < done["passages"]
        assert m3("search", "fox", "-k", "99", "--json") == 0
        assert len(printed(capsys)["hits"]) == done["passages"]
        assert m3("search", "fox", "-k", "2", "--per-parent", "1", "--json") == 0
        best = printed(capsys)["hits"]
        assert m3("search", "fox", "-k", "2", "--per-parent", "1", "--offset", "2", "--json") == 0
        assert {hit["parent_id"] for hit in [*best, *printed(capsys)["hits"]]} == {"d0", "d1", "d2"}
        assert m3("index", "corpus.jsonl", "--passages", "60") == 2
        assert "leave passages out to keep what it has, or choose another name" in capsys.readouterr().err

    def test_passages_of_an_index_without_them_are_a_wrong_call(self, m3, indexed, capsys):
        assert m3("index", "corpus.jsonl", "--passages", "40") == 2
        told = "has passages=None, got Passages(size=40, overlap=0); leave passages out"
        assert told in capsys.readouterr().err

    def test_an_overlap_without_passages_is_a_wrong_call(self, m3, corpus, capsys):
        assert m3("index", "corpus.jsonl", "--overlap", "8") == 2
        assert "--passages and --overlap: size must be an integer >= 1" in capsys.readouterr().err

    # m3 evaluate

    def test_an_evaluation_indexes_into_the_engine_first(self, m3, corpus, checkpoint, tmp_path, capsys):
        (tmp_path / "qrels").mkdir()
        (tmp_path / "queries.jsonl").write_text(corpus.read_text().replace('"_id": "d', '"_id": "q'))
        (tmp_path / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(SENTENCES))))
        assert run(["evaluate", ".", "--json", "--model", str(checkpoint)]) == 0
        in_memory = printed(capsys)["measures"]
        assert m3("evaluate", ".", "--json", "--engine", self.engine) == 0
        result = printed(capsys)
        assert (result["documents"], result["queries"]) == (len(SENTENCES) + 1, len(SENTENCES))
        for row in ("dense", "sparse"):  # token vectors are kept by a codec there
            assert result["measures"][row] == pytest.approx(in_memory[row])

    def test_passages_are_evaluated_by_their_documents(self, m3, corpus, tmp_path, capsys):
        (tmp_path / "qrels").mkdir()
        (tmp_path / "queries.jsonl").write_text(corpus.read_text().replace('"_id": "d', '"_id": "q'))
        (tmp_path / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(SENTENCES))))
        assert m3("index", "corpus.jsonl", "--passages", "8", "--json") == 0
        assert printed(capsys)["written"] == len(SENTENCES) + 1
        assert m3("evaluate", ".", "--json") == 0
        result = printed(capsys)
        assert result["documents"] == len(SENTENCES) + 1
        for row in ("dense", "sparse", "All"):
            assert result["measures"][row]["R@100"] == 1
            assert result["measures"][row]["nDCG@10"] > 0.2
