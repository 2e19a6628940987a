"""An sdist carries the tests that its patterns name, and all that these import from `tests`."""

from __future__ import annotations

from pathlib import Path

from tools.sdist_tests import needed


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_imports_are_followed_in_whatever_form_and_only_into_tests(tmp_path: Path):
    root = written(
        tmp_path,
        {
            "pytest.ini": "",
            "tests/conftest.py": "from tests.tiny import model\n",
            "tests/tiny.py": "import numpy\nfrom m3plugins import M3Encoder\n",
            "tests/ours/test_it.py": "def test():\n    from tests.suites import engine\n",
            "tests/ours/data.json": "{}",
            "tests/suites/engine.py": "from tests.suites.engine_cases import CASES\n",
            "tests/suites/engine_cases.py": "from tests.ours.test_it import test\n",  # a circle ends
            "tests/theirs/test_it.py": "from tests.unused import x\n",
            "tests/unused.py": "",
            "m3plugins/__init__.py": "",
        },
    )
    assert needed(root, ["tests/ours/*"]) == {
        "pytest.ini", "tests/conftest.py", "tests/tiny.py", "tests/ours/test_it.py", "tests/ours/data.json",
        "tests/suites/engine.py", "tests/suites/engine_cases.py",
    }  # fmt: skip
