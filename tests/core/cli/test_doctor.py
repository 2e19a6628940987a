"""`m3 doctor` says what works, and how to mend what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from m3plugins.cli import doctor, versions
from m3plugins.cli.app import run
from m3plugins.cli.checks import Check
from m3plugins.indexing import registry


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Makes a distribution look as if it was not installed, or as another version."""

    def hide(name: str, version: str = "") -> None:
        real = versions.version_of
        monkeypatch.setattr(versions, "version_of", lambda asked: version if asked == name else real(asked))
        monkeypatch.setattr(doctor, "version_of", versions.version_of)

    return hide


def test_an_installation_that_works_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = checks(capsys)
    extras = {f"extra {name}" for name in ("torch", "mini", "cli", "evaluation", "passages", "train")}
    assert {"python", "m3plugins", "devices", "bfloat16", "m3-mini"} | extras <= set(found)
    assert "torch " in found["extra torch"]["detail"] and "transformers " in found["extra torch"]["detail"]
    assert found["bfloat16"]["detail"].startswith('dtype="bfloat16" on ')


@pytest.mark.parametrize(
    ("package", "extra"), [("ir-measures", "evaluation"), ("sentencex", "passages"), ("accelerate", "train")]
)
def test_a_missing_extra_is_a_warning_with_the_command(package, extra, without, capsys) -> None:
    without(package)
    assert run(["doctor", "--json"]) == 0
    found = checks(capsys)[f"extra {extra}"]
    assert (found["status"], found["fix"]) == ("warn", f'pip install -U "m3plugins[{extra}]"')
    assert f"{package} is missing" in found["detail"]


def test_a_version_outside_its_range_is_named_with_the_range(without, capsys) -> None:
    without("ir-measures", "0.1")
    assert run(["doctor", "--json"]) == 0
    assert "ir-measures 0.1 is not >=" in checks(capsys)["extra evaluation"]["detail"]


def test_what_the_core_cannot_do_without_is_broken(without, capsys) -> None:
    without("numpy", "1.25")
    assert run(["doctor", "--json"]) == 1
    assert checks(capsys)["m3plugins"]["status"] == "broken"


def test_an_integration_that_is_not_there_is_a_warning_with_the_command(without, capsys) -> None:
    without("langchain-m3plugins")
    assert run(["doctor"]) == 0
    assert "warn   langchain-m3plugins: not installed → pip install langchain-m3plugins" in capsys.readouterr().out


def test_an_engine_that_cannot_be_imported_fails_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("milvus", "no_such_module:Index", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert run(["doctor", "--json"]) == 1
    found = checks(capsys)["engine milvus"]
    assert (found["status"], found["fix"]) == ("broken", "pip install -U m3plugins-milvus")


def test_no_engine_is_a_warning_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    assert run(["doctor"]) == 0
    assert "warn   engines: none installed; only in memory → pip install m3plugins-milvus" in capsys.readouterr().out


class Checked:
    """An engine with checks of its own."""

    @classmethod
    def checks(cls, uri: str = "", token: str | None = None) -> Iterator[Check]:
        yield Check("client", "warn", f"at {uri or 'no server'}, {token}\x1b[31m", "mend it")


class Unchecked:
    pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint(kind.__name__.lower(), f"{__name__}:{kind.__name__}", registry.GROUP)
        for kind in (Checked, Unchecked)
    ]
    kinds = {"checked": Checked, "unchecked": Unchecked}
    monkeypatch.setattr(EntryPoint, "load", lambda self: kinds[self.name])
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


@pytest.mark.usefixtures("engine")
def test_an_engine_adds_checks_of_its_own_and_of_the_server_that_is_named(capsys) -> None:
    assert run(["doctor", "--json"]) == 0
    assert checks(capsys)["client"]["detail"].startswith("at no server, None")
    assert run(["doctor", "--engine", "checked", "--uri", "there", "--token", "key"]) == 0
    assert "warn   client: at there, key[31m → mend it" in capsys.readouterr().out


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--uri", "there"], "no engine 'milvus' is installed"),
        (["--engine", "checked"], "--engine needs --uri"),
        (["--repair"], "--repair needs --uri"),
        (["--engine", "checked", "--uri", "there", "--repair"], "has no files to repair"),
        (["--engine", "unchecked", "--uri", "there"], "has no check of a server"),
        (["--engine", "nosuch", "--uri", "there"], "no engine 'nosuch' is installed"),
    ],
)
def test_a_server_that_cannot_be_looked_at_is_a_wrong_call(arguments, said, capsys) -> None:
    assert run(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err
