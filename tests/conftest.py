"""The encoder that the tests share: a tiny random M3 checkpoint, made here."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from tests.tiny import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped parity test is a failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("parity"):
        report.outcome = "failed"
        report.longrepr = f"a parity test must run in CI: {report.longrepr}"
    return report
