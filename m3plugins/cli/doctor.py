"""`m3 doctor`: whether what is installed works, and what to do where it does not."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import typer
from rich.console import Console
from rich.text import Text

from m3plugins.cli.options import Json

_STYLES = {"ok": "green", "warn": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Check:
    """One line of the report; `broken` is what m3plugins cannot do without."""

    name: str
    status: Literal["ok", "warn", "broken"]
    detail: str
    fix: str = ""


def doctor(as_json: Json = False) -> int:
    """Check the installation: Python, torch, engines and the bundled model."""
    checks = [check for examine in (_python, _torch, _engines, _mini, _extras) for check in _guarded(examine)]
    broken = any(check.status == "broken" for check in checks)
    if as_json:
        typer.echo(json.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}))
    else:
        console = Console(soft_wrap=True)
        for check in checks:
            line = Text.assemble((f"{check.status:<7}", _STYLES[check.status]), f"{check.name}: {check.detail}")
            console.print(line + Text(f" → {check.fix}") if check.fix else line)
    return 1 if broken else 0


def _guarded(examine: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(examine())
    except Exception as err:  # what breaks an import is what a doctor is for
        return [Check(examine.__name__.strip("_"), "broken", f"{type(err).__name__}: {err}", "install m3plugins again")]


def _python() -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    yield Check("m3plugins", "ok", version("m3plugins") if _installed("m3plugins") else "run from source")


def _torch() -> Iterator[Check]:
    import torch
    import transformers

    yield Check("transformers", "ok", transformers.__version__)
    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    yield Check("devices", "ok", ", ".join([*devices, f"cpu ({torch.backends.cpu.get_cpu_capability()})"]))
    native = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else _cpu_has_bf16()
    yield Check("bfloat16", "ok", "native" if native else "emulated: float32 is as fast")


def _cpu_has_bf16() -> bool:
    import torch

    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # no public question before torch 2.9
    return bool(probe and probe())


def _engines() -> Iterator[Check]:
    from m3plugins.retrieval.engines import engines

    found = engines()
    if not found:
        yield Check("engines", "warn", "none installed; only in memory", "pip install m3plugins-milvus")
    for name, point in found.items():
        try:
            point.load()
        except Exception as err:
            yield Check(f"engine {name}", "broken", f"{type(err).__name__}: {err}", f"pip install -U m3plugins-{name}")
        else:
            yield Check(
                f"engine {name}", "ok", f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            )


def _mini() -> Iterator[Check]:
    from m3plugins.encoding.mini import BASE_PACKAGE, folder_of

    try:
        folder = folder_of()
    except FileNotFoundError as err:
        yield Check("m3-mini", "warn", str(err), "pip install --force-reinstall m3plugins")
        return
    if folder.is_dir():
        yield Check("m3-mini", "ok", f"assembled in {folder}")
    elif _installed(BASE_PACKAGE):
        yield Check("m3-mini", "ok", "base model installed; assembled on first use")
    else:
        fix = 'pip install "m3plugins[mini]"'
        yield Check("m3-mini", "warn", "base model not installed; the first use takes it from the hub", fix)


def _extras() -> Iterator[Check]:
    if _installed("ir-measures"):
        yield Check("evaluation", "ok", f"ir-measures {version('ir-measures')}")
    else:
        yield Check("evaluation", "warn", "m3 evaluate needs ir-measures", 'pip install "m3plugins[evaluation]"')


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
