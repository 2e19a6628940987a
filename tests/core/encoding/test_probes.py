"""What a model makes of known texts tells models apart, and not how or where one is run."""

import json
import re
import shutil
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from m3plugins.encoding.probes import difference


@pytest.mark.parametrize(
    "options",
    [
        {"batch_tokens": 20},
        {"query_max_length": 8, "document_max_length": 9},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_a_model_is_recognised_however_it_is_run(encoder: M3Encoder, checkpoint: Path, options: dict):
    again = M3Encoder.from_pretrained(checkpoint, **options)
    assert difference(encoder.probes, again.probes) == difference(again.probes, encoder.probes) == ""


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("config.json", {"num_hidden_layers": 1}, "its dense embeddings of known texts differ .* by [0-9]+%"),
        ("config.json", {"num_attention_heads": 2}, "its (dense|sparse) embeddings"),
        ("config.json", {"hidden_act": "relu"}, "its (dense|sparse) embeddings"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "it makes .* tokens of known texts|its dense"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_does_something_else_is_told(
    encoder: M3Encoder, checkpoint: Path, tmp_path: Path, name: str, values: dict, told: str, dtype: str
):
    path = shutil.copytree(checkpoint, tmp_path / "copy") / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    other = M3Encoder.from_pretrained(path.parent, dtype=dtype)
    assert re.match(told, difference(encoder.probes, other.probes))


def test_a_change_of_a_head_is_told_by_its_name(encoder: M3Encoder):
    for head in ("dense", "sparse", "multi_vector"):
        other = {**encoder.probes, head: encoder.probes["multi_vector" if head != "multi_vector" else "dense"]}
        assert difference(encoder.probes, other).startswith(f"its {head} embeddings of known texts differ")


def test_probes_of_another_version_are_not_compared(encoder: M3Encoder):
    assert difference({"version": "0"}, encoder.probes) == ""


def test_probes_are_short(encoder: M3Encoder):
    assert len(json.dumps(encoder.probes)) < 1200
