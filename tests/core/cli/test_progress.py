"""The bar of verbs that go through many documents."""

import pytest

from m3plugins.cli.progress import progress


def test_who_watches_sees_how_many_of_how_many_and_how_fast(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("copying", lambda: 12) as advance:
        advance(5)
        advance(7)
    out, err = capsys.readouterr()
    assert out == "" and "12/12" in err and "docs/s" in err


def test_where_nobody_watches_nothing_is_shown_and_nothing_counted(capsys) -> None:
    with progress("copying", lambda: pytest.fail("counted")) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
