"""Checkpoint folders that are damaged, or made to do harm: refused by name, at once, before memory is taken."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import Checkpoint, save_head


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture
def pickled(copy: Path) -> Path:
    """The same model with its weights in PyTorch's own format."""
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return copy


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "sparse_linear.pt", "merges.txt", "x_y/z.json"]
)
def test_a_pipe_among_the_files_is_refused_and_not_waited_for(copy: Path, name: str):
    (copy / name).unlink(missing_ok=True)
    (copy / name).parent.mkdir(exist_ok=True)
    os.mkfifo(copy / name)
    with pytest.raises(ValueError, match=f"{name} is neither; remove it"):
        M3Encoder.from_pretrained(copy)


def test_a_link_to_a_device_is_refused(copy: Path):
    (copy / "vocab.txt").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"vocab\.txt is neither"):
        M3Encoder.from_pretrained(copy)


def test_a_folder_in_the_place_of_weights_is_refused(copy: Path):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"model\.safetensors must be a file, it is a folder"):
        M3Encoder.from_pretrained(copy)


def test_links_to_files_are_followed_as_the_hubs_cache_needs(copy: Path, tmp_path: Path):
    (copy / "model.safetensors").rename(tmp_path / "blob")
    (copy / "model.safetensors").symlink_to(tmp_path / "blob")
    (copy / "unused.json").symlink_to(tmp_path / "nowhere")
    M3Encoder.from_pretrained(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "must hold an object, it holds list"),
        (b"{", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b'{"a":' * 100_000, "must be JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", "must be JSON"),
        (b" " * (17 << 20), "must have at most 16 MiB, it has 17"),
    ],
    ids=["list", "cut", "no-utf-8", "deep", "long-number", "large"],
)
def test_json_that_is_none_is_refused_by_the_files_name(copy: Path, name: str, content: bytes, message: str):
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        M3Encoder.from_pretrained(copy)


SIZES = [
    ({"num_hidden_layers": 10**7}, "num_hidden_layers must be .* which have 39 tensors; .* has 10000000"),
    ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer from 1"),
    ({"num_hidden_layers": True}, "num_hidden_layers must be an integer from 1"),
    ({"encoder_layers": 10**9}, "encoder_layers must be an integer"),
    ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers must be an integer"),
    ({"hidden_size": 10**9}, "hidden_size must be an integer from 1 to .* no dimension beyond 8194"),
    ({"hidden_size": "32"}, "hidden_size must be an integer"),
    ({"hidden_size": -32}, "hidden_size must be an integer"),
    ({"hidden_size": 32.5}, "hidden_size must be an integer"),
    ({"vocab_size": 10**12}, "vocab_size must be an integer"),
    ({"intermediate_size": 10**12}, "intermediate_size must be an integer"),
    ({"num_attention_heads": 0}, "num_attention_heads must be an integer from 1"),
    ({"num_labels": 10**12}, "num_labels must be an integer"),
]


@pytest.mark.parametrize(("change", "message"), SIZES, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_sizes_beyond_the_weights_are_refused_before_anything_is_built(copy: Path, change: dict, message: str):
    configure(copy, change)
    with pytest.raises(ValueError, match=message):
        M3Encoder.from_pretrained(copy)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 10**7}, {"hidden_size": 10**9}])
def test_sizes_are_compared_with_weights_of_pytorchs_own_format_when_these_are_read(pickled: Path, change: dict):
    configure(pickled, change)
    with pytest.raises(ValueError, match="must be an integer from 1 to what the weights hold"):
        M3Encoder.from_pretrained(pickled).warm_up()


def test_weights_of_pytorchs_own_format_are_read(pickled: Path, checkpoint: Path):
    assert Checkpoint(pickled).fingerprint() == Checkpoint(checkpoint).fingerprint()
    assert M3Encoder.from_pretrained(pickled).warm_up().dim == 32


def test_sizes_that_multiply_to_more_than_the_weights_are_refused_before_memory_is_taken(copy: Path):
    configure(copy, {"hidden_size": 8192, "intermediate_size": 8192, "num_attention_heads": 1})
    resize(copy, 8192)
    with pytest.raises(ValueError, match=r"config\.json asks for [\d,]+ parameters, its weights have [\d,]+ bytes"):
        M3Encoder.from_pretrained(copy).warm_up()


def test_a_configuration_of_other_shapes_than_the_weights_is_refused(copy: Path):
    configure(copy, {"intermediate_size": 32})
    with pytest.raises(ValueError, match=r"it makes encoder\.layer\.0\..* \(32,.*\), which they do not hold"):
        M3Encoder.from_pretrained(copy).warm_up()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("head", "weight", "bias"),
    [
        ("colbert_linear", (0, 32), (0,)),
        ("colbert_linear", (8, 16), (8,)),
        ("colbert_linear", (8, 32), (9,)),
        ("colbert_linear", (8, 32, 1), (8,)),
        ("sparse_linear", (2, 32), (2,)),
        ("sparse_linear", (1, 33), (1,)),
        ("sparse_linear", (32,), (1,)),
        ("sparse_linear", (1, 32), ()),
    ],
)
def test_heads_of_other_shapes_are_refused(copy: Path, head: str, weight: tuple, bias: tuple, suffix: str):
    state = {"weight": torch.ones(weight), "bias": torch.ones(bias)}
    save_head(copy, head, state)
    if suffix == ".pt":
        (copy / f"{head}.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"{head}{suffix} must hold a weight of shape .*, 32\), .* got "):
        encoder = M3Encoder.from_pretrained(copy)  # a header is read at once
        assert suffix == ".pt"
        encoder.warm_up()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(1, 32)}, r"must hold the weight and bias of a linear layer, it has \['weight'\]"),
        ({"weight": torch.ones(1, 32, dtype=torch.int64), "bias": torch.ones(1)}, "must hold floating-point tensors"),
        ({"weight": torch.ones(1, 1).expand(1, 32), "bias": torch.ones(1)}, "must hold dense tensors by name"),
        ({"weight": torch.ones(1, 32).to_sparse(), "bias": torch.ones(1)}, "must hold dense tensors by name"),
        ({"weight": [1.0], "bias": 3}, "must hold dense tensors by name"),
        ([torch.ones(1, 32)], "must hold dense tensors by name"),
    ],
    ids=["no-bias", "integers", "expanded", "sparse", "no-tensors", "list"],
)
def test_a_head_of_something_else_than_plain_tensors_is_refused(copy: Path, state: object, message: str):
    torch.save(state, copy / "sparse_linear.pt")
    with pytest.raises(ValueError, match=rf"sparse_linear\.pt {message}"):
        M3Encoder.from_pretrained(copy).warm_up()


def test_a_compressed_head_is_refused_unpacked_by_nobody(copy: Path):
    with zipfile.ZipFile(copy / "sparse_linear.pt") as stored:
        records = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(copy / "sparse_linear.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in records.items():
            packed.writestr(name, content)
    with pytest.raises(ValueError, match=r"sparse_linear\.pt is compressed"):
        M3Encoder.from_pretrained(copy).warm_up()


@pytest.mark.parametrize("name", ["sparse_linear.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_the_refusal_of_a_pickle_does_not_say_how_to_run_it(pickled: Path, tmp_path: Path, name: str, packed: bool):
    torch.save(Exploit(tmp_path / "ran"), pickled / name)
    if not packed:
        (pickled / name).write_bytes(pickle.dumps(Exploit(tmp_path / "ran")))
    with pytest.raises(ValueError, match=f"{name} holds more than tensors") as refused:
        M3Encoder.from_pretrained(pickled).warm_up()
    assert "weights_only" not in str(refused.value)
    assert refused.value.__suppress_context__  # nor does the traceback
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        ("model.safetensors", struct.pack("<Q", 2) + b"[]"),
        ("sparse_linear.safetensors", b"\0" * 100),
        ("sparse_linear.pt", b""),
        ("sparse_linear.pt", b"PK\x03\x04 no zip"),
        ("sparse_linear.pt", b"\x80\x02."),
    ],
)
def test_a_damaged_weight_file_is_refused_by_name(copy: Path, name: str, damage: bytes):
    (copy / name).write_bytes(damage)
    with pytest.raises(ValueError, match=f"{name} "):
        M3Encoder.from_pretrained(copy).warm_up()


def test_a_weight_file_that_ends_early_is_refused_by_name(copy: Path):
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read, it is damaged .* download it again"):
        M3Encoder.from_pretrained(copy)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("tokenizer_config.json", "model_max_length", 1, r"at least 3 tokens .* got 1 by .* model_max_length=1"),
        ("tokenizer_config.json", "model_max_length", "512", "model_max_length must be a number of tokens, got '512'"),
        ("tokenizer_config.json", "model_max_length", -5, "model_max_length must be a number of tokens"),
        ("tokenizer_config.json", "model_max_length", float("nan"), "model_max_length must be a number of tokens"),
        ("tokenizer_config.json", "model_max_length", True, "model_max_length must be a number of tokens"),
        ("config.json", "max_position_embeddings", 4, "at least 3 tokens"),
        ("config.json", "max_position_embeddings", [512], "max_position_embeddings must be a number of tokens"),
        ("config.json", "pad_token_id", 10**6, "at least 3 tokens"),
        ("config.json", "pad_token_id", -100, "pad_token_id must be a token id"),
    ],
)
def test_lengths_that_leave_no_room_for_text_are_refused(copy: Path, name: str, key: str, value: object, message: str):
    configure(copy, {key: value}, name)
    with pytest.raises(ValueError, match=message):
        M3Encoder.from_pretrained(copy)


@pytest.mark.parametrize("value", [None, 1e30, float("inf")])
def test_a_tokenizer_without_a_limit_leaves_it_to_the_positions(copy: Path, value: float | None):
    configure(copy, {"model_max_length": value}, "tokenizer_config.json")
    assert M3Encoder.from_pretrained(copy).document_max_length == 8192


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", "[3]", "each module must have a type and a path, .* has 3"),
        ("modules.json", '[{"type": null, "path": ""}]', "each module must have a type and a path"),
        ("modules.json", "{}", "must hold a list"),
        ("1_Pooling/config.json", "[]", "must hold an object"),
        ("1_Pooling/config.json", '{"pooling_mode": 5}', "pooling must be cls or mean, .* asks for 5"),
        ("config_sentence_transformers.json", '{"prompts": ["a"]}', r"prompts must be an object .* has \['a'\]"),
        ("config_sentence_transformers.json", '{"prompts": {"query": 1}}', "the query prompt must be a string"),
        ("config_sentence_transformers.json", '{"default_prompt_name": []}', "default_prompt_name must be one of"),
    ],
)
def test_files_of_sentence_transformers_that_say_nothing_sensible_are_refused(
    copy: Path, name: str, content: str, message: str
):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        M3Encoder.from_pretrained(copy)


class Exploit:
    """Leaves a file where it is unpickled by a reader that runs code."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._path,))


def configure(folder: Path, change: dict, name: str = "config.json") -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **change}))


def resize(folder: Path, hidden_size: int) -> None:
    save_head(folder, "sparse_linear", torch.nn.Linear(hidden_size, 1).state_dict())
    save_head(folder, "colbert_linear", torch.nn.Linear(hidden_size, 1).state_dict())
