"""Builds the wheels and sdists of all distributions into `dist/`, and proves that they work.

    python tools/release.py             # `make release`: builds, checks what is in them, runs the demo from the wheels
    python tools/release.py --no-demo   # `make dist`: without the last part, which makes an empty environment

Each wheel is built from its sdist. Needs what `make install` installs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("integrations/*/pyproject.toml"))]
HOSTS = {"integrations", *(project.name for project in PROJECTS[1:])}


def build(project: Path) -> tuple[Path, Path]:
    """The sdist and the wheel of a project."""
    before = set(DIST.glob("*"))
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, project)
    made = sorted(set(DIST.glob("*")) - before, key=lambda path: path.suffix)
    sdist, wheel = made
    return sdist, wheel


def check_sdist(project: Path, sdist: Path, work: Path) -> None:
    """Exits where the sdist lacks a file, has another project's, or its tests do not find what they import."""
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    folder = work / sdist.name.removesuffix(".tar.gz")
    tests = Path("tests", "core" if project == ROOT else project.name)
    packages = [path.name for path in project.iterdir() if path.name.isidentifier() and any(path.rglob("py.typed"))]
    wanted = {"LICENSE", "README.md", "pyproject.toml", "pytest.ini"}
    for place, name in [(project, "m3plugins") if project == ROOT else (project, *packages), (ROOT, tests.as_posix())]:
        wanted |= {path.relative_to(place).as_posix() for path in Path(place, name).rglob("*.py")}
    if missing := sorted(name for name in wanted if not (folder / name).is_file()):
        sys.exit(f"release: {sdist.name} lacks {missing}")
    if project == ROOT and (strangers := [path for path in folder.rglob("*") if path.name in HOSTS]):
        sys.exit(f"release: {sdist.name} has files of the integrations: {strangers}")
    call(sys.executable, "-m", "pytest", "-qq", "--collect-only", tests, cwd=folder, stdout=subprocess.DEVNULL)


def check_wheel(wheel: Path) -> None:
    """Exits where the description, as an index shows it, has links that lead nowhere there, or a licence is missing."""
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        described = message_from_string(archive.read(next(n for n in names if n.endswith("METADATA"))).decode())
    if not any(name.endswith("licenses/LICENSE") for name in names):
        sys.exit(f"release: {wheel.name} has no LICENSE")
    if strangers := [name for name in names if name.startswith(("tests/", "tools/"))]:
        sys.exit(f"release: {wheel.name} has {strangers}")
    if relative := re.findall(r"\]\((?!https://|#)([^)]*)\)", str(described.get_payload())):
        sys.exit(f"release: the README of {wheel.name} links to {relative}; write https://github.com/m3plugins/…")


def demo(wheels: list[Path], work: Path) -> None:
    """Installs the wheels, and wheels alone, into an empty environment, and runs the demo there."""
    venv.create(work / "venv", with_pip=True)
    binaries = work / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    extras = {"m3plugins": "[mini,cli]"}
    requirements = [f"{name}{extras.get(name, '')} @ {wheel.as_uri()}" for wheel in wheels for name in [name_of(wheel)]]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    call(*pip, "--only-binary", ":all:", *requirements)
    modules = ["m3plugins", "m3plugins_milvus", "m3plugins_elasticsearch", "langchain_m3plugins"]
    modules += ["llama_index.vector_stores.m3plugins", "llama_index.retrievers.m3plugins"]
    call(python, "-I", "-c", f"import {', '.join(modules)}; assert 'site-packages' in m3plugins.__file__", cwd=work)
    call("sh", ROOT / "examples" / "demo.sh", env={**clean(), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"})


def name_of(wheel: Path) -> str:
    """Returns the name of a wheel's distribution."""
    return wheel.name.split("-")[0].replace("_", "-")


def clean() -> dict[str, str]:
    """The environment, less what would find this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def call(*command: object, **options: object) -> None:
    """Runs a command, and exits where it fails."""
    options = {"env": clean(), **options}
    if subprocess.run([str(part) for part in command], check=False, **options).returncode:  # type: ignore[call-overload]
        sys.exit(f"release: failed: {' '.join(map(str, command))}")


def main() -> None:
    """Builds and checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-demo", action="store_true")
    arguments = parser.parse_args()
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        wheels = []
        for project in PROJECTS:
            sdist, wheel = build(project)
            check_sdist(project, sdist, Path(work))
            check_wheel(wheel)
            wheels.append(wheel)
        call(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.glob("*")))
        if not arguments.no_demo:
            demo(wheels, Path(work))
    print(f"{len(list(DIST.glob('*')))} files in {DIST}")


if __name__ == "__main__":
    main()
