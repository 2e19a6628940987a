"""Imports point one way, those inside functions and those for types alone included."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from m3plugins import training

ROOT = Path(training.__file__).parent
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Names of the training package's modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("m3plugins.training.") for name in found} & MODULES.keys()


def test_neither_modules_nor_packages_import_each_other_in_a_circle() -> None:
    modules = {name: imported(path) for name, path in MODULES.items() if name != "__init__"}
    assert sum(map(len, modules.values())) > 50
    packages: dict[str, set[str]] = {}
    for name, others in modules.items():
        package = name.partition(".")[0]
        packages.setdefault(package, set()).update(other.partition(".")[0] for other in others)
        packages[package].discard(package)
    for graph in (modules, packages):
        TopologicalSorter(graph).prepare()  # a CycleError names the circle
