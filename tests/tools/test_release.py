"""What is released is checked: the names of wheels, the links of a README, the licence."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from tools.release import check_wheel, name_of


def wheel(folder: Path, readme: str, *others: str, licence: bool = True) -> Path:
    path = folder / "ours-0.1.0-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        archive.writestr("ours-0.1.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: ours\n\n{readme}\n")
        for name in (*others, *(["ours-0.1.0.dist-info/licenses/LICENSE"] if licence else [])):
            archive.writestr(name, "")
    return path


def test_a_wheel_tells_its_distribution():
    assert name_of(Path("dist/llama_index_m3plugins-0.1.0-py3-none-any.whl")) == "llama-index-m3plugins"
    assert name_of(Path("m3plugins-0.1.0-py3-none-any.whl")) == "m3plugins"


def test_links_that_an_index_can_follow_pass(tmp_path: Path):
    check_wheel(wheel(tmp_path, "[site](https://example.org/a) and [below](#below)"))


@pytest.mark.parametrize("target", ["docs/cli.md", "../README.md", "/docs", "http://example.org"])
def test_links_that_lead_nowhere_are_named(tmp_path: Path, target: str):
    with pytest.raises(SystemExit, match="links to") as caught:
        check_wheel(wheel(tmp_path, f"[site](https://example.org) and ![a picture]({target})"))
    assert repr([target]) in str(caught.value)


def test_a_wheel_brings_its_licence_and_no_tests(tmp_path: Path):
    with pytest.raises(SystemExit, match="has no LICENSE"):
        check_wheel(wheel(tmp_path, "", licence=False))
    with pytest.raises(SystemExit, match=r"has \['tests/test_it.py'\]"):
        check_wheel(wheel(tmp_path, "", "ours/__init__.py", "tests/test_it.py"))
