"""Exit codes, one-line errors, verbs of other distributions, and a quick start."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from m3plugins.cli import app, main


def m3(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "m3plugins.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_process_exits_with_the_code_and_one_line_on_stderr() -> None:
    done = m3("index", "no-such-file.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "m3: there is no file or folder no-such-file.jsonl\n"


def test_help_and_no_arguments_are_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == app.run([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("index", "search", "evaluate", "doctor"))


def test_help_does_not_import_the_model_libraries() -> None:
    code = (
        "import sys; from m3plugins.cli.app import run; run(['--help']);"
        "sys.exit(str({'torch', 'transformers', 'pymilvus', 'ir_measures'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serch", "q"], "No such command 'serch'"),
        (["search"], "Missing argument 'query'"),
        (["search", "q", "-k", "0"], "Invalid value for '-k'"),
        (["search", "q", "--engine", "nosuch"], "pip install m3plugins-nosuch"),
        (["evaluate", "nosuch"], "a BEIR collection needs nosuch/corpus.jsonl"),
    ],
)
def test_a_wrong_call_exits_2_with_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("m3: ") and said in err and err.count("\n") == 1


def test_without_typer_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from m3plugins.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        'm3: the command needs typer and rich; pip install "m3plugins[cli]"\n',
    )


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs of a distribution that is not there: `greet`, `fail`, and one that cannot be imported."""

    def greet(name: str) -> int:
        """Say hello."""
        typer.echo(f"hello {name}")
        return 0

    def fail() -> None:
        """Fail on two lines."""
        msg = "first\nsecond"
        raise KeyError(msg)

    monkeypatch.setitem(sys.modules, "some_host", types.SimpleNamespace(greet=greet, fail=fail))
    points = [EntryPoint(name, f"some_host:{name}", app.COMMANDS) for name in ("greet", "fail")]
    points.append(EntryPoint("broken", "no_such_module:broken", app.COMMANDS))
    monkeypatch.setattr(app, "entry_points", lambda group: points if group == app.COMMANDS else [])


@pytest.mark.usefixtures("registered")
def test_verbs_of_other_distributions_run_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["greet", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"


@pytest.mark.usefixtures("registered")
def test_a_verb_that_cannot_be_imported_breaks_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    assert "greet" in capsys.readouterr().out
    assert app.run(["broken"]) == 1
    assert "no_such_module" in capsys.readouterr().err


@pytest.mark.usefixtures("registered")
def test_an_unforeseen_error_is_one_line_with_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["fail"]) == 1
    assert capsys.readouterr().err == r"m3: KeyError: 'first\nsecond'" + "\n"


@pytest.mark.usefixtures("registered")
def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3_DEBUG", "1")
    with pytest.raises(KeyError):
        app.run(["fail"])


def test_main_exits_with_the_code(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["index", str(tmp_path)])
    assert stopped.value.code == 2
