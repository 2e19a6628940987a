"""A lock is checked: nothing else is installed, and all that is asked for is pinned."""

from pathlib import Path

import pytest
from packaging.markers import default_environment

from tools.check_lock import ROOT, asked, drifted, our_projects, outdated, pinned, read

LOCK = read(
    [
        "# This file was made by a program",
        "numpy==2.2.6 ; python_full_version < '3.11'",
        "numpy==2.4.6 ; python_full_version >= '3.11'",
        "ruamel-yaml==1.0  # with a comment",
        "torch==2.13.0",
    ]
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        """
        [build-system]
        requires = ["hatchling>=1.25"]
        [project]
        name = "ours"
        dependencies = ["torch>=2.6", "numpy>=2.3; python_version >= '3.11'"]
        [project.optional-dependencies]
        yaml = ["ruamel.yaml>=2"]
        test = ["ours[yaml]", "theirs"]
        """
    )
    return tmp_path


def pins(python: str) -> dict[str, str]:
    return pinned(LOCK, {**default_environment(), "python_version": python, "python_full_version": f"{python}.1"})


def test_markers_choose_the_pin():
    assert pins("3.10")["numpy"] == "2.2.6"
    assert pins("3.13")["numpy"] == "2.4.6"


def test_a_local_version_is_its_public_one():
    assert drifted({"torch": "2.13.0+cpu", "numpy": "2.4.6"}, pins("3.11"), set()) == []


def test_another_version_and_what_is_not_pinned_are_named():
    assert drifted({"torch": "2.14.0", "pandas": "3.0", "ours": "0.1.0"}, pins("3.11"), {"ours"}) == [
        "pandas 3.0 is installed; pinned: None",
        "torch 2.14.0 is installed; pinned: 2.13.0",
    ]


def test_extras_bring_those_they_name(project: Path):
    assert {want.name for _, want in asked(["-e .[test]", "pip"], project)} == {
        "pip", "hatchling", "torch", "numpy", "ruamel.yaml", "theirs"
    }  # fmt: skip
    assert {want.name for _, want in asked(["-e ."], project)} == {"hatchling", "torch", "numpy"}


def test_what_is_asked_for_and_not_pinned_is_named(project: Path):
    lock = [*LOCK, *read(["hatchling==1.33.0"])]
    assert outdated(["-e ."], lock, project, {"ours"}) == []
    assert outdated(["-e .[yaml]", "torch<2"], lock, project, {"ours"})[:2] == [
        "the .in file asks for torch<2; pinned for Python 3.10: 2.13.0",
        "pyproject.toml asks for ruamel.yaml>=2; pinned for Python 3.10: 1.0",
    ]


@pytest.mark.parametrize("name", ["constraints", "constraints-parity"])
def test_our_locks_pin_what_the_projects_ask_for(name: str):
    inputs, lock = ((ROOT / f"{name}{ending}").read_text(encoding="utf-8").splitlines() for ending in (".in", ".txt"))
    assert outdated(inputs, read(lock), ROOT, our_projects(ROOT)) == []
