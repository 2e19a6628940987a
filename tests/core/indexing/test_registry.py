"""Engines are found by entry point, and what is missing is named."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from m3plugins.indexing import registry


class TinyEngine:
    """Stands for an installed distribution's index class: only found and loaded here."""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("tiny", f"{__name__}:TinyEngine", registry.GROUP)
    broken = EntryPoint("broken", "no_such_module:Index", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point, broken] if group == registry.GROUP else [])
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(TinyEngine=TinyEngine))


@pytest.mark.usefixtures("registered")
def test_engines_are_listed_by_name_without_being_imported() -> None:
    assert list(registry.engines()) == ["broken", "tiny"]


@pytest.mark.usefixtures("registered")
def test_an_engine_is_loaded_by_name() -> None:
    assert registry.load_engine("tiny") is TinyEngine


@pytest.mark.usefixtures("registered")
def test_an_unknown_engine_is_refused_with_what_is_installed_and_what_to_install() -> None:
    with pytest.raises(ValueError, match=r"installed: broken, tiny\); pip install m3plugins-milvus"):
        registry.load_engine("milvus")
