"""Checks a lock: an environment holds nothing else, and it pins what the projects ask for today.

    python tools/check_lock.py constraints            # constraints.txt, made of constraints.in by `make lock`

Needs no network. Run it with the interpreter of the environment to check.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def read(lines: Iterable[str]) -> list[Requirement]:
    """The requirements of a file in pip's format, less its comments and the editable projects."""
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [Requirement(line) for line in bare if line and not line.startswith("-e")]


def pinned(lock: Iterable[Requirement], environment: Mapping[str, str]) -> dict[str, str]:
    """The versions that apply in an environment, by canonical name."""
    applying = (pin for pin in lock if pin.marker is None or pin.marker.evaluate(dict(environment)))
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in applying}


def asked(inputs: Iterable[str], root: Path) -> Iterator[tuple[str, Requirement]]:
    """Yields the requirements of a `.in` file and of the projects that it names, each with its file."""
    inputs = list(inputs)
    yield from (("the .in file", requirement) for requirement in read(inputs))
    for folder, extras in re.findall(r"^-e (\S+?)(?:\[(.+)\])?$", "\n".join(inputs), re.MULTILINE):
        file = root / folder / "pyproject.toml"
        described = tomllib.loads(file.read_text(encoding="utf-8"))
        project, where = described["project"], file.relative_to(root).as_posix()
        wanted = [*project["dependencies"], *described["build-system"]["requires"]]
        open_extras = [extra for extra in extras.split(",") if extra]
        for extra in open_extras:  # grows where an extra names another one of the same project
            for text in project["optional-dependencies"][extra]:
                if Requirement(text).name == project["name"]:
                    open_extras += sorted(Requirement(text).extras - set(open_extras))
                else:
                    wanted.append(text)
        yield from ((where, Requirement(text)) for text in wanted)


def outdated(inputs: Iterable[str], lock: list[Requirement], root: Path, ours: set[str]) -> list[str]:
    """Lists what is asked for and not pinned, on any Python that we support."""
    problems = []
    requirements = [(where, want) for where, want in asked(inputs, root) if canonicalize_name(want.name) not in ours]
    for python in PYTHONS:
        environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.9"}
        versions = pinned(lock, environment)
        for where, want in requirements:
            if want.marker and not want.marker.evaluate(environment):
                continue
            version = versions.get(canonicalize_name(want.name))
            if version is None or not want.specifier.contains(version, prereleases=True):
                problems.append(f"{where} asks for {want}; pinned for Python {python}: {version}")
    return problems


def drifted(installed: Mapping[str, str], versions: Mapping[str, str], ours: set[str]) -> list[str]:
    """Lists what is installed and not pinned to that version; a local one such as 2.13.0+cpu is its public one."""
    return [
        f"{name} {version} is installed; pinned: {versions.get(name)}"
        for name, version in sorted(installed.items())
        if name not in ours and versions.get(name) != Version(version).public
    ]


def our_projects(root: Path) -> set[str]:
    """The canonical names of this repository's distributions."""
    files = [root / "pyproject.toml", *root.glob("integrations/*/pyproject.toml")]
    return {canonicalize_name(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"]) for file in files}


def main(name: str) -> int:
    """Prints what is wrong with the lock of that name, and returns the exit code."""
    inputs, lines = ((ROOT / f"{name}{ending}").read_text(encoding="utf-8").splitlines() for ending in (".in", ".txt"))
    lock, ours = read(lines), our_projects(ROOT)
    installed = {canonicalize_name(found.name): found.version for found in metadata.distributions()}
    old = outdated(inputs, lock, ROOT, ours)
    strange = drifted(installed, pinned(lock, default_environment()), ours)
    for problem in [*old, *strange]:
        print(f"{name}.txt: {problem}")
    if old:
        print("Renew it: make lock")
    if strange:
        print("Install anew: make clean install")
    if not old and not strange:
        print(f"{name}.txt: {len(installed)} distributions are installed as pinned")
    return int(bool(old or strange))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
