"""Text of documents is never a command to the terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3plugins.cli.printing import complain, print_json, printable, say
from m3plugins.cli.rendering import Found, show
from m3plugins.cli.snippets import Snippet
from m3plugins.retrieval.document import Document, Hit
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
