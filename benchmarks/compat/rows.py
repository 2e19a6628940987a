"""The matrix: what each row installs, and which tests it runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MILVUS, ELASTICSEARCH = "integrations/milvus", "integrations/elasticsearch[async]"
SERVER_8, SERVER_9 = "M3_TEST_ES_ZIP", "M3_TEST_ES9_ZIP"
WITHOUT_TRAINING = ".[mini,cli,evaluation,loaders,passages]"
ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "constraints.txt"
LOCKED_TORCH = next(line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TOOLS = tuple(requirement for requirement in EXTRAS["test"] if not requirement.startswith("m3plugins["))


@dataclass(frozen=True)
class Row:
    """An environment, and the tests to run in it.

    Attributes:
        name: Name in the table and on the command line.
        paths: The tests to run, as pytest's arguments.
        requirements: Requirements beside those of the projects.
        projects: Our projects, with their extras.
        prefer: The versions that the requirements leave open: the lock's as far as they allow, the newest, or the
            oldest of what we name ourselves.
        python: The interpreter.
        server: The environment variable that names the archive of Elasticsearch, where the tests need a node.
        by_name_only: Whether it runs only if named, since it fetches gigabytes, as another torch is.
    """

    name: str
    paths: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    projects: tuple[str, ...] = (".[test]",)
    prefer: Literal["locked", "highest", "lowest-direct"] = "locked"
    python: str = sys.executable
    server: str = ""
    by_name_only: bool = False


def core(name: str, prefer: Literal["highest", "lowest-direct"]) -> Iterator[Row]:
    """The core at one end of all that it claims: without training, which asks for a newer transformers, and with it."""
    encoding = ("tests/core", "--ignore=tests/core/training", "--ignore=tests/core/cli/test_train.py")
    training = ("tests/core/training", "tests/core/cli/test_train.py")
    ends = [
        Row(name, encoding, TOOLS, (WITHOUT_TRAINING,), prefer),
        Row(f"{name}, training", training, (), (".[test]",), prefer),
    ]
    for row in ends:
        yield replace(row, requirements=(*row.requirements, LOCKED_TORCH))
    for row in ends:
        yield replace(row, name=f"{row.name}, torch too", by_name_only=True)


def transformers(version: str) -> Row:
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (5, 10):  # training asks for 5.10
        tests = ("tests/core/encoding", "tests/core/reranking")
        return Row(f"transformers=={version}", tests, (f"transformers=={version}", *TOOLS), (WITHOUT_TRAINING,))
    tests = ("tests/core/encoding", "tests/core/reranking", "tests/core/training")
    return Row(f"transformers=={version}", tests, (f"transformers=={version}",))


def milvus(version: str) -> Row:
    return Row(f"pymilvus=={version}", ("tests/milvus",), (f"pymilvus=={version}",), (".[test]", MILVUS))


def elasticsearch(version: str, server: str) -> Row:
    projects = (".[test]", MILVUS, ELASTICSEARCH)  # its tests copy from and to Milvus Lite
    name = f"elasticsearch=={version}" + (", server 9" if server == SERVER_9 else "")
    return Row(name, ("tests/elasticsearch",), (f"elasticsearch=={version}",), projects, server=server)


def langchain(version: str, *others: str) -> Row:
    projects = (".[test]", MILVUS, ELASTICSEARCH, "integrations/langchain")
    requirements = (f"langchain-core=={version}", "elasticsearch<9", *others)
    return Row(f"langchain-core=={version}", ("tests/langchain",), requirements, projects, server=SERVER_8)


def llama_index(version: str, *others: str) -> Row:
    projects = (".[test]", MILVUS, ELASTICSEARCH, "integrations/llamaindex")
    requirements = (f"llama-index-core=={version}", "elasticsearch<9", *others)
    return Row(f"llama-index-core=={version}", ("tests/llamaindex",), requirements, projects, server=SERVER_8)


def pythons() -> Iterator[Row]:
    """The core and Milvus on each Python of this machine, from the PATH or from pyenv."""
    for version in PYTHONS:
        if found := interpreter(version):
            yield Row(f"python{version}", ("tests/core", "tests/milvus"), (), (".[test]", MILVUS), python=found)


@cache
def interpreter(version: str) -> str | None:
    """A Python of that version which runs: a shim of pyenv's may not."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, versions.glob(f"{version}.*/bin/python"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


STOCK_STORES = ("langchain-milvus==0.4.0", "langchain-elasticsearch==1.0.0", "pymilvus==3.0.2")
LLAMA_STORES = ("llama-index-vector-stores-milvus==1.2.0", "llama-index-vector-stores-elasticsearch==0.7.0")
AROUND = ("langchain-classic", "langgraph", "aiohttp")
EVERYTHING = (".[test]", MILVUS, ELASTICSEARCH, "integrations/langchain[test]", "integrations/llamaindex[test]")


def matrix() -> list[Row]:
    """All rows, those by name only too."""
    return [
        *core("oldest", "lowest-direct"),
        *core("newest", "highest"),
        Row(
            "newest hosts",
            ("tests/milvus", "tests/elasticsearch", "tests/langchain", "tests/llamaindex", "tests/frameworks"),
            ("elasticsearch<9", LOCKED_TORCH),  # the client of the server's major version
            EVERYTHING,
            "highest",
            server=SERVER_8,
        ),
        *pythons(),
        transformers("4.51.3"),
        *(transformers(f"5.{minor}.*") for minor in (10, 14, 18)),
        transformers("5.20.2"),
        *(transformers(f"5.{minor}.*") for minor in (21, 22, 23)),
        milvus("2.6.10"),
        milvus("2.6.17"),
        milvus("3.0.2"),
        elasticsearch("8.19.0", SERVER_8),
        elasticsearch("8.19.3", SERVER_8),
        elasticsearch("8.19.3", SERVER_9),
        elasticsearch("9.5.1", SERVER_9),
        langchain("1.3.0", "langchain-tests==1.1.6"),  # the stock stores of today need 1.4.9
        langchain("1.7.2", "langchain-tests==1.1.9", *STOCK_STORES, *AROUND),
        llama_index("0.14.0"),
        llama_index("0.14.25", *LLAMA_STORES, "pymilvus==2.6.17"),
    ]


def named(names: Sequence[str]) -> list[Row]:
    """The rows of these names; of a host or an end, all but those by name only; of a version outside, one made anew."""
    rows = matrix()
    found: list[Row] = []
    for name in names:
        of_host = [row for row in rows if re.split("[=,]", row.name)[0] == name and not row.by_name_only]
        made = of_host or [row for row in rows if row.name == name] or list(outside(name, rows))
        if not made:
            sys.exit(f"compat: no row {name!r}; there are: {'; '.join(row.name for row in rows)}")
        found += made
    return found


def outside(name: str, rows: Sequence[Row]) -> Iterator[Row]:
    """The row of a version outside the matrix; none where the name is no host's, or nothing that a host can be."""
    match = re.fullmatch(r"([\w-]+)==([\w.*+!]+)(, server 9)?", name)
    if not match:
        return
    host, version, on_9 = match.groups()
    if host == "elasticsearch":
        yield elasticsearch(version, SERVER_9 if on_9 or version.startswith("9") else SERVER_8)
    elif host == "transformers" and not on_9:
        yield transformers(version)
    elif (alike := [row for row in rows if row.name.split("==")[0] == host]) and not on_9:
        yield replace(alike[-1], name=name, requirements=(name, *alike[-1].requirements[1:]))
