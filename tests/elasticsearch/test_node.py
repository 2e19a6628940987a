"""Which Java a node of the tests runs on."""

from pathlib import Path

import pytest

from tests.elasticsearch.node import java_home, java_homes


@pytest.fixture
def java(tmp_path: Path):
    """Makes the home of a Java that says it is of this version."""

    def make(version: str) -> Path:
        home = tmp_path / version
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "java").write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-01' >&2\n")
        (home / "bin" / "java").chmod(0o755)
        return home

    return make


def test_the_first_java_that_is_new_enough_is_taken(java, tmp_path):
    homes = [tmp_path / "nothing", java("17.0.15"), java("21"), java("25.0.3")]
    assert java_home(17, homes) == homes[1]
    assert java_home(21, homes) == homes[2]
    assert java_home(22, homes) == homes[3]


def test_without_one_the_error_says_what_is_there_and_what_to_do(java):
    home = java("17.0.15")
    with pytest.raises(RuntimeError, match=f"needs Java 21 or newer; .*JAVA_HOME; found: 17 in {home}$"):
        java_home(21, [home])
    with pytest.raises(RuntimeError, match="found: none$"):
        java_home(21, [])


def test_the_environment_goes_first(java, monkeypatch):
    ours, general = java("21.0.1"), java("22.0.1")
    monkeypatch.setenv("JAVA_HOME", str(general))
    monkeypatch.delenv("ES_JAVA_HOME", raising=False)
    assert next(java_homes()) == general
    monkeypatch.setenv("ES_JAVA_HOME", str(ours))
    assert next(java_homes()) == ours
