"""A client without torch and transformers, where a service runs the model.

`make thin` runs these tests in an environment without the two; in any other they are hidden.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from m3plugins import (
    Document,
    HybridIndex,
    HybridRetriever,
    InMemoryHybridIndex,
    M3Encoder,
    M3Output,
    MultiVectorEmbeddings,
    SparseEmbeddings,
)
from m3plugins.cli.app import run
from m3plugins.encoding.probes import TEXTS, sketch
from m3plugins.reranking import CrossEncoderReranker
from m3plugins.retrieval import explain
from m3plugins_milvus import MilvusHybridIndex

HIDDEN = ("torch", "transformers")
PACKAGES = (
    "m3plugins",
    "m3plugins_elasticsearch",
    "m3plugins_milvus",
    "langchain_m3plugins",
    "llama_index.embeddings.m3plugins",
    "llama_index.postprocessor.m3plugins",
    "llama_index.retrievers.m3plugins",
    "llama_index.sparse_embeddings.m3plugins",
    "llama_index.vector_stores.m3plugins",
)
LIGHT = {"m3plugins", "numpy", "tokenizers", "typing_extensions"}
DIM, WIDTH, VOCABULARY, TOKENS = 8, 4, 100, 3


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HIDDEN:
        monkeypatch.setitem(sys.modules, name, None)


@dataclass(frozen=True)
class Elsewhere:
    """A model that cannot be run here: what an index records of it, and no more."""

    name: str = "elsewhere"
    fingerprint: str = "0" * 64
    dim: int = DIM
    multi_vector_dim: int = WIDTH
    vocab_size: int = VOCABULARY
    document_max_length: int = 512
    is_loaded: bool = False
    settings: Mapping[str, str] = field(default_factory=lambda: {"backend": "remote", "dtype": "float32"})
    description: Mapping[str, str] = field(default_factory=dict)

    @property
    def probes(self) -> dict[str, str]:
        return sketch(embeddings(len(TEXTS)), self.settings)


def embeddings(count: int) -> M3Output:
    random = np.random.default_rng(7)
    offsets = np.arange(count + 1) * TOKENS
    ids = np.concatenate([np.sort(random.choice(VOCABULARY, TOKENS, replace=False)) for _ in range(count)])
    return M3Output(
        dense=unit(random.normal(size=(count, DIM))),
        sparse=SparseEmbeddings(
            offsets, ids.astype(np.int32), random.random(count * TOKENS, np.float32) + 0.1, VOCABULARY
        ),
        multi_vector=MultiVectorEmbeddings(offsets, unit(random.normal(size=(count * TOKENS, WIDTH)))),
        token_counts=np.full(count, TOKENS, np.int32),
        truncated=np.zeros(count, np.bool_),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=["memory", "milvus"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HybridIndex]:
    if request.param == "memory":
        yield InMemoryHybridIndex(encoder=Elsewhere())
    else:
        with MilvusHybridIndex.create("docs", encoder=Elsewhere(), uri=tmp_path / "m3.db") as made:
            yield made


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_brings_neither_torch_nor_transformers_even_where_they_are_installed(package: str) -> None:
    if find_spec(package.partition(".")[0]) is None:
        pytest.skip(f"{package} is not installed")
    assert new_modules(package).isdisjoint(HIDDEN)


def test_an_import_of_the_core_brings_little() -> None:
    assert new_modules("m3plugins") - sys.stdlib_module_names <= LIGHT


def new_modules(package: str) -> set[str]:
    """The top-level modules that an import brings to a new interpreter."""
    code = f"import sys; before = set(sys.modules); import {package}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_core_requires_neither() -> None:
    required = [line for line in requires("m3plugins") or () if "extra ==" not in line]
    assert required and not any(line.startswith(HIDDEN) for line in required)


def test_given_embeddings_are_indexed_and_found(index: HybridIndex) -> None:
    given = embeddings(20)
    report = index.upsert((Document(id=f"{i}", text=f"text {i}") for i in range(20)), embeddings=given)
    assert (report.written, report.failed) == (20, [])
    for row in range(20):
        best, *_ = HybridRetriever(index).search_embedded(f"text {row}", given[row : row + 1], k=3)
        assert (best.id, best.text) == (f"{row}", f"text {row}")


@pytest.mark.parametrize("make", [M3Encoder.from_pretrained, CrossEncoderReranker])
@pytest.mark.parametrize("model", ["owner/model", "folder"])
def test_a_model_names_the_extra_and_the_service_as_soon_as_it_is_named(make, model, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    named = tmp_path / model if model == "folder" else model
    with pytest.raises(ImportError, match="needs torch and transformers to run here") as caught:
        make(named)
    assert 'pip install "m3plugins[torch]"' in str(caught.value)
    assert ('"http://…"' in str(caught.value)) == (make is not CrossEncoderReranker)


def test_the_bundled_model_does_so_too() -> None:
    with pytest.raises(ImportError, match=r"m3-mini needs torch and transformers .*m3plugins\[torch\]"):
        M3Encoder.from_pretrained("m3-mini")


def test_a_wrong_name_is_told_first() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'm3-mini'"):
        M3Encoder.from_pretrained("m3-mimi")


def test_training_names_its_extra() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN})); import m3plugins.training"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("ImportError: training needs torch, transformers")
    assert 'pip install "m3plugins[train]"' in done.stderr


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_tells_of_itself(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([option]) == 0
    assert "m3" in capsys.readouterr().out


def test_the_command_lists_describes_and_drops_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--uri", str(tmp_path / "m3.db")]
    with MilvusHybridIndex.create("docs", encoder=Elsewhere(), uri=tmp_path / "m3.db") as index:
        index.upsert([Document(id="a", text="a fox")], embeddings=embeddings(1))
    assert run(["list", *where]) == run(["info", *where]) == 0
    assert "1 documents" in (told := capsys.readouterr().out) and "model: elsewhere" in told
    assert run(["delete", "--drop", "--yes", *where]) == run(["list", *where]) == 0
    assert "no index" in capsys.readouterr().out


def test_the_doctor_names_the_extra_and_finds_nothing_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    devices = next(line for line in capsys.readouterr().out.splitlines() if "devices" in line)
    assert devices.startswith("warn") and devices.endswith('pip install "m3plugins[torch]"')


def test_a_search_that_would_encode_here_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["search", "fox", "--uri", str(tmp_path / "m3.db"), "--model", "m3-mini"]) == 1
    told = capsys.readouterr().err
    assert "m3plugins[torch]" in told and told.count("\n") == 1


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service of m3-mini, run by a Python that has torch."""
    if not (python := os.environ.get("M3_TEST_SERVICE_PYTHON")):
        pytest.skip("make thin names a Python that has torch")
    log = tmp_path_factory.mktemp("service") / "log"
    command = [python, "-m", "m3plugins.cli", "serve", "--port", "0"]
    with log.open("w") as file, subprocess.Popen(command, stderr=file) as process:
        while '"serves"' not in (told := log.read_text(encoding="utf-8")):
            assert process.poll() is None, told
            time.sleep(0.1)
        yield json.loads(next(line for line in told.splitlines() if '"serves"' in line))["at"]
        process.terminate()


def test_through_a_service_it_indexes_searches_and_explains(service: str, tmp_path: Path) -> None:
    encoder = M3Encoder.from_pretrained(service)
    documents = [Document(id="a", text="A bisection halves a sorted list."), Document(id="b", text="A heap is a tree.")]
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        assert index.upsert(documents).written == 2
        hit, *_ = HybridRetriever(index).search("find an item in a sorted list", k=2)
        why = explain("find an item in a sorted list", hit, index=index)
    assert hit.id == "a" and why.weighted == pytest.approx(hit.score, abs=1e-4)


def test_the_command_takes_a_services_address(service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "a fox"}\n{"_id": "b", "text": "a heap"}\n', encoding="utf-8")
    where = ["--uri", str(tmp_path / "m3.db"), "--model", service]
    assert run(["index", str(corpus), *where]) == 0
    capsys.readouterr()
    assert run(["search", "fox", *where, "--json"]) == 0
    assert [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]] == ["a", "b"]
