"""Exit codes, one-line errors, verbs of other distributions, and a quick start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from m3plugins import M3Encoder
from m3plugins.cli import app, main
from m3plugins.cli.errors import Interrupted
from m3plugins.cli.versions import version_of

needs_training = pytest.mark.skipif(find_spec("accelerate") is None, reason="training is not installed")
needs_milvus = pytest.mark.skipif(find_spec("m3plugins_milvus") is None, reason="the default engine is not installed")


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
    verbs = ("index", "search", "info", "list", "delete", "copy", "evaluate", "train", "doctor")
    assert all(verb in out for verb in verbs)


@pytest.mark.parametrize("verb", ["index", "search", "info", "list", "delete", "copy", "evaluate", "train", "doctor"])
def test_the_help_of_a_verb_fits_into_80_columns(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3plugins.cli", verb, "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [
        line for line in lines if line.startswith("│") and line.rstrip(" │").endswith("…")
    ]  # nothing is cut off


def test_the_versions_are_those_that_are_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["m3plugins"] == (version_of("m3plugins") or "run from source")
    assert all(version_of(name) == found for name, found in lines.items() if name != "m3plugins")


@pytest.mark.parametrize(
    ("verb", "said"), [("index", "run the same command again: it goes on"), ("info", "interrupted")]
)
def test_after_ctrl_c_one_line_says_how_to_go_on(
    verb: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(app._VERBS, verb, interrupted)
    assert app.run([verb]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("m3: interrupted") and said in err and err.count("\n") == 1


def test_a_verb_that_knows_how_to_go_on_says_so_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train() -> None:
        msg = "interrupted; the same call with --resume goes on from step 5"
        raise Interrupted(msg)

    monkeypatch.setitem(app._VERBS, "train", train)
    assert app.run(["train"]) == 1
    assert capsys.readouterr().err == "m3: interrupted; the same call with --resume goes on from step 5\n"


@pytest.mark.parametrize(
    ("hidden", "arguments", "extra"),
    [
        ("ir_measures", ["evaluate", "nosuch"], "evaluation"),
        pytest.param("sentencex", ["index", "corpus.jsonl", "--passages", "40"], "passages", marks=needs_milvus),
        pytest.param("regex", ["index", "corpus.jsonl", "--passages", "40"], "passages", marks=needs_milvus),
        ("accelerate", ["train", "nosuch.jsonl", "--output", "out"], "train"),
    ],
)
def test_a_missing_extra_is_told_before_any_work(
    hidden: str, arguments: list[str], extra: str, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "b"}\n')
    code = f"""
import importlib.util, sys
sys.modules[{hidden!r}] = None
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {hidden!r} else real(name, package)
from m3plugins.cli import main
main({[*arguments, "--model", str(checkpoint)]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2) and done.stdout == ""
    assert f'pip install "m3plugins[{extra}]"' in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


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
        (["search"], "Missing argument"),
        (["search", " \n"], "the query is empty; say what to search for"),
        pytest.param(["search", "q", "--rerank-depth", "3"], "--rerank-depth 3 needs --rerank", marks=needs_milvus),
        pytest.param(["search", "q", "--rerank", "/no/such/model"], "/no/such/model", marks=needs_milvus),
        pytest.param(["search", "q", "--filter", "year"], "--filter: 'year' is not a condition", marks=needs_milvus),
        pytest.param(
            ["search", "q", "--weights", "dens=1"], "--weights: 'dens' is none of dense, sparse", marks=needs_milvus
        ),
        (["delete"], "say what to delete, by one of ids, --filter, --all, --drop; got none of them"),
        (["delete", "a", "--all"], "got ids and --all"),
        (["info", "--engine", "nosuch"], "pip install m3plugins-nosuch"),
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


@pytest.mark.parametrize(
    "arguments",
    [["search", "q", "--json", "--engine", "nosuch"], ["search", "--json"], ["search", "fo\udcff", "--json"],
     ["info", "--collection", "fo\udcff", "--json"], ["evaluate", "x\udcff\x1b[2J", "--json"]],
)  # fmt: skip
def test_a_wrong_call_for_json_prints_the_error_as_an_object(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == 2
    out, err = capsys.readouterr()
    assert err == f"m3: {json.loads(out)['error']}\n" and out.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "q", "--model", "https://me:SECRET@h/x"],
        ["search", "q", "--rerank", "https://me:SECRET@h/x"],
        ["search", "q", "--model", "https://me:SEC/SECRET@h/x"],
        ["index", "https://me:SECRET@h/x.jsonl"],
        ["evaluate", "https://me:SECRET@h/x"],
        pytest.param(["train", "https://me:SECRET@h/x", "--output", "out"], marks=needs_training),
        ["search", "q", "--https://me:SECRET@h"],
    ],
)
def test_credentials_of_a_url_are_not_repeated(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*arguments, "--json"]) == 2
    assert "SECRET" not in "".join(capsys.readouterr())


def test_an_encoder_does_not_repeat_the_credentials_of_a_url() -> None:
    with pytest.raises(ValueError, match="with no user or password") as refused:
        M3Encoder("https://me:SECRET@h/x")
    assert "SECRET" not in str(refused.value)


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
