"""The verbs of `m3` on any engine, found by its entry point."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from m3plugins import HybridRetriever, HybridWeights, loaders
from m3plugins.cli.app import run
from m3plugins.indexing import IndexNotFoundError
from m3plugins.reranking import CrossEncoderReranker
from tests.tiny import SENTENCES, save_checkpoint, save_cross_encoder

M3 = Callable[..., int]


def write(path: Path, texts: list[str]) -> Path:
    rows = [{"_id": f"d{i}", "title": "T", "text": text, "number": i} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


class Terminal(io.StringIO):
    """Answers that are typed."""

    def isatty(self) -> bool:
        return True


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

    def test_a_broken_model_is_refused_and_no_index_is_made(
        self, m3, corpus, name, reopen, checkpoint, tmp_path, capsys
    ):
        folder = shutil.copytree(checkpoint, tmp_path / "broken")
        torch.save({"weight": torch.full((8, 32), torch.nan), "bias": torch.ones(8)}, folder / "colbert_linear.pt")
        assert m3("index", "corpus.jsonl", model=folder) == 2
        assert "embeddings must be finite, the multi_vector head gave NaN" in capsys.readouterr().err
        with pytest.raises(IndexNotFoundError):
            reopen(name)

    def test_a_bad_line_is_named_the_others_are_indexed_and_the_exit_code_is_1(self, m3, corpus, capsys):
        corpus.write_text("not json\n" + corpus.read_text())
        assert m3("index", "corpus.jsonl") == 1
        out, err = capsys.readouterr()
        assert f"{len(SENTENCES) + 1} written, 0 unchanged, 1 failed" in out
        assert "corpus.jsonl:1: not a line of JSON" in err
        assert err.splitlines()[-1].startswith("m3: 1 failed; correct what is named")

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
        assert "skipped 1: 1 .png" in capsys.readouterr().out
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
        assert " = dense " in out and "shared: " in out and "nearest: " in out and "first choice" in out
        assert "[/bold]" in out and "\x1b" not in out

        assert m3("search", SENTENCES[0], "--json", "--filter", "number>=3,number<5", "--filter", "number!=4") == 0
        assert [hit["id"] for hit in printed(capsys)["hits"]] == ["d3"]

    def test_weights_fusion_and_reranker_are_those_of_the_retriever(self, m3, indexed, name, reopen, tmp_path, capsys):
        cross_encoder = save_cross_encoder(tmp_path / "cross-encoder")
        query, weights = SENTENCES[0], HybridWeights(dense=1, sparse=0.5, multi_vector=0)
        options = ("--weights", "dense=1,sparse=0.5", "--fusion", "rrf", "--json", "-k", "3")
        assert m3("search", query, *options) == 0
        fused = printed(capsys)["hits"]
        assert m3("search", query, *options, "--rerank", str(cross_encoder), "--rerank-depth", "5") == 0
        reranked = printed(capsys)["hits"]
        with reopen(name) as index:
            retriever = HybridRetriever(index, weights=weights, fusion="rrf")
            wanted = retriever.search(query, k=3)
            best = retriever.search(query, k=5)
        assert [(hit["id"], hit["score"]) for hit in fused] == [(hit.id, pytest.approx(hit.score)) for hit in wanted]
        assert fused[0]["scores"]["multi_vector"] is None
        scores = CrossEncoderReranker(cross_encoder).score(query, [hit.document.content for hit in best])
        assert [hit["score"] for hit in reranked] == pytest.approx(sorted(scores.tolist(), reverse=True)[:3], abs=1e-5)
        assert m3("search", query, *options[:-3], "--explain") == 0
        assert "– (" in capsys.readouterr().out  # the head that does not count has no score, and a rank all the same

    def test_a_search_shows_the_text_around_the_match_and_where_it_stands(self, m3, tmp_path, capsys):
        noise = " ".join(["Retrieval finds the passages that answer a question."] * 20)
        text = f"{noise} {SENTENCES[2]} {noise}"
        row = {"_id": "a", "text": text, "title": "Foxes", "metadata": {"heading": "In German", "path": "a/b.md"}}
        (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n")
        assert m3("index", "corpus.jsonl") == 0
        capsys.readouterr()
        options = ("--weights", "sparse=1")  # of random weights, what is shared alone means something
        assert m3("search", SENTENCES[2], "--json", *options) == 0
        part = printed(capsys)["hits"][0]["snippet"]
        assert text[part["start"] : part["end"]] == part["text"] and "braune Fuchs" in part["text"]
        assert any("Fuchs" in text[start:end] for start, end in part["matches"])
        assert m3("search", SENTENCES[2], *options) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "a › a/b.md › Foxes › In German" in out and "braune Fuchs" in out and "… " in out

    @pytest.mark.parametrize("query", ["", " \n"])
    def test_an_empty_query_is_a_wrong_call(self, m3, query, capsys):
        assert m3("search", query) == 2
        assert "the query is empty" in capsys.readouterr().err

    # m3 list, m3 info, m3 delete

    @pytest.fixture
    def held(self, bare: M3, capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
        """What `m3 info` tells of the index."""

        def ask() -> dict[str, Any]:
            capsys.readouterr()
            assert bare("info", "--json") == 0
            return printed(capsys)

        return ask

    @pytest.fixture
    def bare(self, m3: M3, where: list[str]) -> M3:
        """Runs a verb that takes no model."""
        return lambda verb, *arguments: run([verb, *where, *arguments])

    def test_an_index_is_listed_and_described_without_its_model(
        self, bare, indexed, held, name, where, encoder, capsys
    ):
        info = held()
        assert (info["name"], info["engine"], info["documents"]) == (name, self.engine, len(SENTENCES) + 1)
        assert (info["fingerprint"], info["codec"], info["passages"]) == (encoder.fingerprint, "binary", None)
        assert bare("info") == 0
        out = capsys.readouterr().out
        assert f"contents: {len(SENTENCES) + 1} documents\n" in out and encoder.fingerprint in out

        place = [option for option in where if option not in ("--collection", name)]
        assert run(["list", *place, "--json"]) == 0
        assert info in printed(capsys)["indexes"]
        assert run(["list", *place, "--names"]) == 0
        assert name in capsys.readouterr().out.splitlines()
        assert run(["list", *place]) == 0
        assert f"{name}: {len(SENTENCES) + 1} documents" in capsys.readouterr().out

    def test_documents_are_deleted_by_id_and_those_that_are_not_there_are_named(self, m3, indexed, held, capsys):
        capsys.readouterr()
        assert m3("delete", "d1", "d2", "--dry-run", "--json") == 0
        assert printed(capsys)["documents"] == 2
        assert held()["documents"] == len(SENTENCES) + 1
        assert m3("delete", "d1", "nosuch\x1b", "--json") == 1
        out, err = capsys.readouterr()
        told = {"documents": 1, "passages": None, "missing": ["nosuch\x1b"], "dropped": False, "dry_run": False}
        assert json.loads(out) == told
        assert err.startswith("m3: there is no document 'nosuch") and "\x1b" not in err
        assert held()["documents"] == len(SENTENCES)

    def test_documents_are_deleted_by_filter(self, m3, indexed, held, name, capsys):
        capsys.readouterr()
        assert m3("delete", "--filter", "number>=3,number<5", "--dry-run") == 0
        assert ": 2 documents would be deleted" in capsys.readouterr().out
        assert m3("delete", "--filter", "number>=3,number<5") == 0
        out = capsys.readouterr().out
        assert name in out and ": 2 documents deleted" in out
        assert held()["documents"] == len(SENTENCES) - 1

    def test_all_and_the_index_are_deleted_when_that_is_confirmed(self, m3, bare, indexed, held, name, capsys):
        for option in ("--all", "--drop"):
            assert m3("delete", option) == 2
            assert f"would delete {len(SENTENCES) + 1} documents" in capsys.readouterr().err
        assert m3("delete", "--drop", "--dry-run") == 0
        assert held()["documents"] == len(SENTENCES) + 1
        assert m3("delete", "--all", "--yes") == 0
        assert f"{len(SENTENCES) + 1} documents deleted" in capsys.readouterr().out
        assert held()["documents"] == 0
        assert bare("delete", "--drop", "--yes") == 0
        assert "0 documents deleted, and the index" in capsys.readouterr().out
        assert bare("info") == 2
        assert f"there is no index '{name}'" in capsys.readouterr().err

    def test_a_document_goes_with_its_passages(self, m3, tmp_path, held, capsys):
        write(tmp_path / "corpus.jsonl", [" ".join(SENTENCES[:3]), "a short one", " ".join(SENTENCES[3:6])])
        assert m3("index", "corpus.jsonl", "--passages", "40") == 0
        before = held()
        assert before["documents"] == 3 < before["passage_count"]
        assert m3("delete", "d0", "--json") == 0
        deleted = printed(capsys)
        assert deleted["documents"] == 1 < deleted["passages"]
        assert held()["passage_count"] == before["passage_count"] - deleted["passages"]

    @pytest.mark.parametrize("option", ["--all", "--drop"])
    def test_nothing_is_deleted_unless_the_answer_is_yes(self, m3, indexed, held, option, monkeypatch, capsys):
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", Terminal("n\ny\n"))
        assert m3("delete", option) == 2
        err = capsys.readouterr().err
        assert f"Delete {len(SENTENCES) + 1} documents of" in err and err.endswith("m3: nothing was deleted\n")
        assert held()["documents"] == len(SENTENCES) + 1
        assert m3("delete", option) == 0
        assert f"{len(SENTENCES) + 1} documents deleted" in capsys.readouterr().out

    # m3 copy

    @pytest.fixture
    def copied(self, m3: M3, where: list[str], name: str) -> M3:
        """Runs `m3 copy` from the index to another one beside it, and returns the exit code."""
        source = [option.replace("--engine", "--from") for option in where] or ["--from", self.engine]
        source = [{"--uri": "--from-uri", "--collection": "--from-collection"}.get(option, option) for option in source]
        return lambda *arguments: m3("copy", *source, "--engine", self.engine, "--collection", f"{name}_2", *arguments)

    def test_a_copy_has_the_codec_of_its_source_unless_told(self, m3, copied, corpus, name, reopen, capsys):
        assert m3("index", "corpus.jsonl", "--codec", "float16") == 0
        assert copied() == 0
        with reopen(f"{name}_2") as index:
            assert index.identity.codec == "float16"
        assert f"{len(SENTENCES) + 1} documents copied" in capsys.readouterr().out
        assert copied("--codec", "int8") == 2
        assert copied("--codec", "float8") == 2
        assert copied("--codec", "int8", "--collection", f"{name}_3") == 0
        with reopen(f"{name}_3") as index:
            assert index.identity.codec == "int8"

    def test_a_copy_tells_documents_from_passages(self, m3, copied, tmp_path, capsys):
        write(tmp_path / "corpus.jsonl", [" ".join(SENTENCES[:3]), "a short one", " ".join(SENTENCES[3:6])])
        assert m3("index", "corpus.jsonl", "--passages", "40", "--json") == 0
        count = printed(capsys)["passages"]
        assert copied() == 0
        out = capsys.readouterr().out
        assert f"{count} passages copied" in out and f"3 documents in {count} passages in all" in out
        assert copied("--json") == 0
        told = printed(capsys)
        assert (told["unchanged"], told["documents"], told["passages"]) == (count, 3, count)

    def test_a_copy_of_which_nothing_could_be_written_leaves_no_empty_index(
        self, copied, indexed, name, reopen, monkeypatch, capsys
    ):
        def refuse(writer: object, document: object) -> None:
            raise ValueError("no room")

        with reopen(name) as index:
            writer = type(index.writer)
        with monkeypatch.context() as patch:
            patch.setattr(writer, "check", refuse)
            assert copied() == 1
        assert "no room" in capsys.readouterr().err
        with pytest.raises(IndexNotFoundError):
            reopen(f"{name}_2")
        assert copied() == 0
        with monkeypatch.context() as patch:
            patch.setattr(writer, "check", refuse)
            assert copied() == 0  # one that was there stays, with what it has
        with reopen(f"{name}_2") as index:
            assert index.count() == len(SENTENCES) + 1

    # Text of documents

    def test_no_verb_lets_a_document_speak_to_the_terminal(self, m3, tmp_path, capsys):
        hostile = "\x1b]0;t\x07 \x9b31m \u202e [bold red]x[/nosuch] :smile: \r"
        rows = [
            {"_id": f"{i}{hostile}", "title": hostile, "text": f"fox {hostile}", "metadata": {"heading": hostile}}
            for i in range(2)
        ]
        lines = [*map(json.dumps, rows), json.dumps({"_id": hostile, "text": 3})]
        (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
        for verb, *arguments in (
            ["index", "corpus.jsonl"],
            ["search", "fox"],
            ["search", "fox", "--explain"],
            ["search", "fox", "--json"],
            ["search", "fox", "--filter", hostile],
            ["delete", hostile],
        ):
            m3(verb, *arguments)
            out, err = capsys.readouterr()
            assert out or err
            assert not {c for c in out + err if not c.isprintable()} - {"\n"}, verb

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
