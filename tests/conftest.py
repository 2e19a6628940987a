"""The encoder that the tests share: a tiny random M3 checkpoint, made here."""

from __future__ import annotations

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
