"""Imports point one way: no modules import each other in a circle, those of types alone and lazy ones counted too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path) -> dict[str, str]:
    """The source of each module of every distribution under a root, by name."""
    found = {}
    for folder in (root, *root.glob("integrations/*")):
        for package in ("m3plugins*", "*_m3plugins", "llama_index"):
            for file in (file for top in folder.glob(package) for file in top.rglob("*.py")):
                found[module_name(file, folder)] = file.read_text(encoding="utf-8")
    return found


def imported(source: str) -> Iterator[str]:
    """What a module imports, wherever in it: modules, and names that may be modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """The modules that each one imports; a name is of its module, or else of its package."""
    edges = {}
    for name, source in sources.items():
        found = {word if word in sources else word.rpartition(".")[0] for word in imported(source)}
        edges[name] = found & sources.keys()
    return edges


def circles(edges: Mapping[str, Iterable[str]]) -> set[frozenset[str]]:
    """A circle for each place where one has to be opened."""
    rest, found = {name: set(targets) for name, targets in edges.items()}, set()
    while True:
        try:
            TopologicalSorter(rest).prepare()
        except CycleError as err:
            circle = err.args[1]
            found.add(frozenset(circle))
            rest[circle[1]].discard(circle[0])  # each imports the one before it
        else:
            return found


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph(modules(ROOT))) == set()


def test_the_folders_of_the_core_import_each_other_one_way():
    edges: dict[str, set[str]] = {}
    for name, targets in graph(modules(ROOT)).items():
        if name.startswith("m3plugins."):
            folder, others = name.split(".")[1], {target.split(".")[1] for target in targets if "." in target}
            edges.setdefault(folder, set()).update(others - {folder})
    assert circles(edges) == set()


def test_a_circle_through_a_type_and_a_lazy_import_is_found():
    sources = {
        "house.roof": "if TYPE_CHECKING:\n    from house.wall import Wall\n",
        "house.wall": "def build():\n    from house import floor\n",
        "house.floor": "import house.roof, numpy\n",
        "house": "from house.roof import Roof\n",
    }
    assert circles(graph(sources)) == {frozenset({"house.roof", "house.wall", "house.floor"})}
