"""One encoder for all who name the same model, as long as somebody holds it."""

import gc
import shutil
import weakref
from functools import partial
from pathlib import Path

import pytest

from m3plugins.encoding import shared_encoder
from tests.core.encoding.threads import together


def test_the_same_model_and_options_are_one_encoder(checkpoint: Path):
    one = shared_encoder(checkpoint, query_max_length=64, devices="cpu")
    assert shared_encoder(str(checkpoint), query_max_length=64, devices=["cpu"]) is one
    assert shared_encoder(checkpoint, query_max_length=64, devices="cpu").memo is one.memo


def test_other_options_are_another_encoder(checkpoint: Path, tmp_path: Path):
    one = shared_encoder(checkpoint)
    assert shared_encoder(checkpoint, query_max_length=64) is not one
    assert shared_encoder(checkpoint, dtype="bfloat16") is not one
    assert shared_encoder(shutil.copytree(checkpoint, tmp_path / "copy")) is not one


def test_a_folder_that_was_written_anew_is_another_model(checkpoint: Path, tmp_path: Path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    before = shared_encoder(folder)
    assert shared_encoder(folder) is before
    shutil.copy(folder / "sparse_linear.pt", tmp_path / "head.pt")
    (tmp_path / "head.pt").replace(folder / "sparse_linear.pt")
    assert shared_encoder(folder) is not before


def test_threads_that_race_for_it_get_one(checkpoint: Path):
    assert len({id(encoder) for encoder in together(*[partial(shared_encoder, checkpoint, mcls=64)] * 16)}) == 1


def test_an_encoder_that_nobody_holds_is_released(checkpoint: Path):
    encoder = shared_encoder(checkpoint, query_max_length=32)
    encoder.memo.encode_queries(["fox"])
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    assert shared_encoder(checkpoint, query_max_length=32).query_max_length == 32


def test_bad_options_are_refused(checkpoint: Path):
    with pytest.raises(ValueError, match="dtype must be one of"):
        shared_encoder(checkpoint, dtype="int4")
