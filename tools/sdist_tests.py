"""A hatch build hook: the sdist of an integration carries the tests of its host and what these need.

The tests of all distributions are in one folder at the root of the repository, since the hosts share suites.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ALWAYS = ("pytest.ini", "tests/conftest.py")


class TestsHook(BuildHookInterface):
    """Takes `files`, patterns from the root, from the project's `[tool.hatch.build.targets.sdist.hooks.custom]`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the files; an sdist that is built from an sdist has them already."""
        root = Path(self.root).parents[1]
        if not Path(self.root, "tests").exists():
            build_data["force_include"] |= {str(root / name): name for name in needed(root, self.config["files"])}


def needed(root: Path, patterns: list[str]) -> set[str]:
    """The files of these patterns and, transitively, those of `tests` that they import, relative to the root."""
    found: set[str] = set()
    rest = [path.relative_to(root).as_posix() for pattern in (*ALWAYS, *patterns) for path in root.glob(pattern)]
    while rest:
        name = rest.pop()
        if name not in found:
            found.add(name)
            rest += imported(root, name) if name.endswith(".py") else ()
    return found


def imported(root: Path, name: str) -> Iterator[str]:
    """The files below `tests` that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((root / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tests":
            for module in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                file = module.replace(".", "/") + ".py"
                if (root / file).exists():
                    yield file
