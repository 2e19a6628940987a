"""Write the docstrings of the Python standard library as a corpus, one document a module, class or function.

    python examples/stdlib_corpus.py corpus.jsonl

The source is read, never imported. The same Python gives the same file.
"""

from __future__ import annotations

import argparse
import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "idlelib", "turtledemo"}
SKIPPED |= {"distutils", "ensurepip", "encodings", "tkinter", "turtle"}  # rarely asked for, and a quarter of the whole
MIN_WORDS = 8  # below that a docstring says nothing to search for
SUMMARY_WORDS = 30  # of a long docstring, the leading paragraphs up to here
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def modules(library: Path) -> Iterator[tuple[str, ast.Module]]:
    """The public modules by their dotted names."""
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if SKIPPED.isdisjoint(parts) and not any(part.startswith("_") for part in name.split(".")):
            yield name, ast.parse(path.read_bytes())


def definitions(name: str, node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    """The public classes, functions and methods by their qualified names."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            qualified = f"{name}.{child.name}"
            yield qualified, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(qualified, child)


def summary(docstring: str) -> str:
    """The leading paragraphs of a docstring."""
    kept: list[str] = []
    for paragraph in docstring.split("\n\n"):
        if len(" ".join(kept).split()) >= SUMMARY_WORDS:
            break
        kept.append(paragraph)
    return "\n\n".join(kept)


def documents(library: Path) -> Iterator[dict[str, object]]:
    """Docstrings worth finding, each text once."""
    seen: set[str] = set()
    for module, tree in modules(library):
        for name, node in [(module, tree), *definitions(module, tree)]:
            text = summary(ast.get_docstring(node) or "")
            if len(text.split()) >= MIN_WORDS and text not in seen:
                seen.add(text)
                kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
                metadata = {"kind": kind, "module": module, "line": getattr(node, "lineno", 1)}
                yield {"_id": name, "title": name, "text": text, "metadata": metadata}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    found = list(documents(Path(sysconfig.get_paths()["stdlib"])))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    print(f"{len(found)} docstrings in {options.output}")


if __name__ == "__main__":
    main()
