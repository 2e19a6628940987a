"""Text of documents is never a command to the terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3plugins.cli.index import report_failed
from m3plugins.cli.inputs import source
from m3plugins.cli.printing import complain, message, messages_alone, print_json, printable, say, show_traceback
from m3plugins.cli.rendering import Found, show
from m3plugins.cli.snippets import Snippet
from m3plugins.indexing.corpus import Rejected
from m3plugins.indexing.document import Document
from m3plugins.retrieval.hit import Hit
from m3plugins.scoring.heads import HeadScores

HOSTILE = st.lists(
    st.sampled_from(["\x1b]0;t\x07", "\x1b[2J", "\x9b31m", "\x7f", "\r", "\n", "\u202e", "\u2028", "\ud800", "[bold]",
                     "[/red]", ":smile:", "[link=file:///x]y[/link]", "fox", "狐", "می\u200cخواهم"]) | st.characters(),
    max_size=12,
).map("".join)  # fmt: skip
VALID = HOSTILE.map(lambda text: text.encode("utf-8", "replace").decode())
REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def harmless(text: str) -> bool:
    """No character but the end of a line is one that a terminal obeys, or that turns text around."""
    joiners = "\n\u200c\u200d"
    return all(
        unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in text if c not in joiners
    )


@given(HOSTILE)
def test_what_is_printable_is_one_harmless_line(text):
    assert harmless(printable(text)) and "\n" not in printable(text)
    assert printable(printable(text)) == printable(text)


def test_joiners_stay_where_scripts_need_them():
    assert printable("می\u200cخواهم क्\u200dष") == "می\u200cخواهم क्\u200dष"


@REUSED
@given(HOSTILE)
def test_lines_and_json_are_harmless_and_json_says_the_same(capsys: pytest.CaptureFixture[str], text: str):
    say(text)
    complain(text)
    print_json({text: [text]})
    out, err = capsys.readouterr()
    assert harmless(out) and harmless(err) and err.count("\n") == 1
    line, printed = out.splitlines() if out.count("\n") == 2 else ("", out.splitlines()[-1])
    assert line == printable(text)
    assert json.loads(printed) == {text: [text]}


@given(HOSTILE)
def test_a_message_is_printable_and_bounded(text):
    assert message(text) == printable(text)
    assert len(message((text or "x") * 5000)) < 4100 and harmless(message(text * 5000))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got https://me:SECRET@host/x; give a folder", "got https://host/x; give a folder"),
        ("no file https:/me:SECRET@host/x", "no file https:/host/x"),
        ("tcp://TOKEN_SECRET@host:19530", "tcp://host:19530"),
        ("http://me:SEC/RET@host:9200/a", "http://host:9200/a"),
        ("http://me:SEC?RE#T@host:9200/a", "http://host:9200/a"),
        ("http://me:p@SECRET@host and ftp://a:SECRET@b", "http://host and ftp://b"),
        ("http://host:9200/@user and me@example.org", "http://host:9200/@user and me@example.org"),
        ("m3.db", "m3.db"),
    ],
)
def test_a_message_has_no_credentials_of_a_url(text: str, shown: str) -> None:
    assert message(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16-le"])
def test_json_is_valid_on_a_stdout_of_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"狐 é \x9b\u202e\ud800\x7f": [float("nan"), -float("inf"), 1.5, None, {"a": (float("inf"),)}]}
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    print_json(value)
    printed = raw.getvalue().decode(encoding)
    assert harmless(printed) and "NaN" not in printed and "Infinity" not in printed
    assert json.loads(printed) == {"狐 é \x9b\u202e\ud800\x7f": [None, None, 1.5, None, {"a": [None]}]}


def test_what_stdout_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1", write_through=True))
    document = Document(id="a 狐", text="é")
    hit = Hit(document=document, score=1.0, scores=HeadScores(dense=1.0))
    with messages_alone():
        say("a 狐")
        show(Found("q", [hit], {"a 狐": Snippet("é", 0, 1)}))
    assert raw.getvalue().startswith(b"a \\u72d0\n") and b"\xe9" in raw.getvalue()


def test_logs_and_warnings_are_messages_too(capsys: pytest.CaptureFixture[str]) -> None:
    logger, handler = logging.getLogger("some.library"), logging.StreamHandler()
    handler.setStream(sys.stderr)
    logger.addHandler(handler)
    try:
        with messages_alone(), warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show_on_stderr
            logger.warning("%s is cut", "\x1b]0;t\x07\u202edoc" + "x" * 9000)
            warnings.warn("http://me:SECRET@h \x1b[2J", stacklevel=1)
    finally:
        logger.removeHandler(handler)
    err = capsys.readouterr().err
    assert harmless(err) and "SECRET" not in err and err.count("\n") == 2 and len(err) < 4300
    assert logging.getLogRecordFactory() is logging.LogRecord


def show_on_stderr(text, category, filename, lineno, file=None, line=None):
    """As Python's own, which pytest replaces."""
    sys.stderr.write(warnings.formatwarning(text, category, filename, lineno, line))


def test_a_traceback_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("\x1b[2J") from ValueError("\x9b http://me:SECRET@h")
    except KeyError as err:
        show_traceback(KeyError, err, err.__traceback__)
    said = capsys.readouterr().err
    assert harmless(said) and "SECRET" not in said and "Traceback" in said and said.count("\n") > 3


def test_what_a_corpus_gets_wrong_is_told_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;t\x07\x9b2J\u202e[bold]"
    rows = [{hostile: 1}, {"_id": hostile, "text": "t", hostile: [float("nan")]}, {"_id": "a", "text": hostile}]
    path = tmp_path / f"{hostile}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[-1]]))
    failed = [item for item in source(path).read() if isinstance(item, Rejected)]
    report_failed(failed)
    print_json([asdict(item) for item in failed])
    out, err = capsys.readouterr()
    assert len(failed) == 3 and harmless(out) and harmless(err) and err.count("\n") == 4 and "[bold]" in err
    assert json.loads(out) == [asdict(item) for item in failed]


@REUSED
@given(VALID, VALID, VALID, st.data())
def test_hits_are_harmless_and_their_markup_is_text(capsys, i, title, text, data):
    start = data.draw(st.integers(0, len(text)))
    part = Snippet(text[start:], start, len(text), ((start, min(start + 3, len(text))),))
    document = Document(id=i or "i", text=text, title=title, metadata={"heading": text, "path": title})
    hit = Hit(document=document, score=1.0, scores=HeadScores(dense=1.0))
    show(Found("q", [hit], {hit.id: part}))
    out = capsys.readouterr().out
    assert harmless(out)
    for markup in ("[bold]", "[/red]", ":smile:"):
        if markup in i:
            assert markup in "".join(out.split())
