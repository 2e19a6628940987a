"""The checkpoint format: heads, pooling, lengths, identity."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import Checkpoint, fingerprint_of, save_head


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.mark.parametrize("head", ["sparse_linear", "colbert_linear"])
def test_a_missing_head_is_refused_not_made_up(copy: Path, head: str):
    (copy / f"{head}.pt").unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {head}.pt"):
        M3Encoder.from_pretrained(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "not a checkpoint folder"),
        ("model.safetensors", "has no encoder weights"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_a_folder_without_a_needed_file_is_refused_at_once(copy: Path, name: str, message: str):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        M3Encoder.from_pretrained(copy)


def test_safetensors_twin_is_preferred(copy: Path):
    weight = torch.full((1, 32), 0.5)
    save_head(copy, "sparse_linear", {"weight": weight, "bias": torch.ones(1)})
    torch.save({"weight": -weight, "bias": torch.ones(1)}, copy / "sparse_linear.pt")
    assert Checkpoint(copy).load_head("sparse_linear")["weight"].unique().tolist() == [0.5]


def test_twins_have_one_fingerprint(copy: Path, checkpoint: Path):
    for head in ("sparse_linear", "colbert_linear"):
        save_head(copy, head, Checkpoint(checkpoint).load_head(head))
    assert Checkpoint(copy).fingerprint() == Checkpoint(checkpoint).fingerprint()


@pytest.mark.parametrize("what", ["head", "encoder", "tokenizer", "pooling"])
def test_fingerprint_changes_with_what_decides_the_vectors(copy: Path, checkpoint: Path, what: str):
    if what == "head":
        state = Checkpoint(copy).load_head("sparse_linear")
        save_head(copy, "sparse_linear", {**state, "bias": state["bias"] + 1e-3})
    elif what == "encoder":
        from safetensors.torch import load_file, save_file

        tensors = load_file(copy / "model.safetensors")
        tensors[next(iter(tensors))][0] += 1e-3
        save_file(tensors, copy / "model.safetensors")
    elif what == "tokenizer":
        tokenizer = json.loads((copy / "tokenizer.json").read_text())
        tokenizer["normalizer"] = {"type": "NFC"}
        (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    else:
        write_pooling(copy, "pooling_mode_mean_tokens")
    assert Checkpoint(copy).fingerprint() != Checkpoint(checkpoint).fingerprint()


def test_fingerprint_does_not_depend_on_how_the_model_is_run(checkpoint: Path):
    plain = M3Encoder.from_pretrained(checkpoint)
    other = M3Encoder.from_pretrained(checkpoint, dtype="bfloat16", query_max_length=64)
    assert plain.fingerprint == other.fingerprint == fingerprint_of(plain.description)
    assert plain.settings != other.settings


def test_mean_pooling_is_read_from_the_folder(copy: Path, encoder: M3Encoder):
    write_pooling(copy, "pooling_mode_mean_tokens")
    mean = M3Encoder.from_pretrained(copy).encode_documents(["fox", "a fox and a dog"])
    cls = encoder.encode_documents(["fox", "a fox and a dog"])
    np.testing.assert_allclose(np.linalg.norm(mean.dense, axis=1), 1, atol=1e-5)
    assert np.abs(mean.dense - cls.dense).max() > 0.01
    np.testing.assert_allclose(mean.multi_vector.vectors, cls.multi_vector.vectors, atol=1e-6)


def test_mean_pooling_leaves_padding_out(copy: Path):
    write_pooling(copy, "pooling_mode_mean_tokens")
    encoder = M3Encoder.from_pretrained(copy)
    together = encoder.encode_documents(["fox", "a fox and a dog by the river"]).dense[0]
    np.testing.assert_allclose(together, encoder.encode_documents(["fox"]).dense[0], atol=1e-6)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}, "mean"),  # as version 6 saves it
        ({"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ],
)
def test_pooling_is_read_in_every_form_that_sentence_transformers_writes(copy: Path, config: dict, pooling: str):
    write_json(copy / "1_Pooling" / "config.json", config)
    assert M3Encoder.from_pretrained(copy).checkpoint.pooling == pooling


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean_tokens and cls_token"),
        ({"pooling_mode_mean_tokens": False}, "none"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["cls", "max"]}, "cls and max"),
    ],
)
def test_other_poolings_are_refused_by_name(copy: Path, config: dict, named: str):
    write_json(copy / "1_Pooling" / "config.json", config)
    with pytest.raises(ValueError, match=f"pooling must be cls or mean, .* asks for {named}"):
        M3Encoder.from_pretrained(copy)


@pytest.mark.parametrize(
    "types",
    [
        ("models.Transformer", "models.Pooling", "models.Normalize"),
        (
            "base.modules.transformer.Transformer",
            "sentence_transformer.modules.pooling.Pooling",
            "base.modules.normalize.Normalize",
        ),
    ],
)
def test_modules_go_by_the_names_of_old_and_new_versions_and_say_where_the_pooling_is(
    copy: Path, types: tuple[str, ...]
):
    paths = ("", "5_Pooling", "6_Normalize")
    modules = [{"path": path, "type": f"sentence_transformers.{name}"} for path, name in zip(paths, types, strict=True)]
    write_json(copy / "modules.json", modules)
    write_json(copy / "5_Pooling" / "config.json", {"pooling_mode": "mean"})
    assert M3Encoder.from_pretrained(copy).checkpoint.pooling == "mean"


def test_a_module_that_changes_the_dense_vector_is_refused_by_name(copy: Path):
    write_json(copy / "modules.json", [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}])
    with pytest.raises(ValueError, match=r"modules\.json has a Dense module too"):
        M3Encoder.from_pretrained(copy)


def test_narrower_multi_vectors_are_read_from_the_head(copy: Path):
    save_head(copy, "colbert_linear", torch.nn.Linear(32, 8).state_dict())
    assert M3Encoder.from_pretrained(copy).encode_documents(["fox"]).multi_vector.dim == 8


def write_pooling(folder: Path, mode: str) -> None:
    write_json(folder / "1_Pooling" / "config.json", {mode: True, "word_embedding_dimension": 32})


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
