"""A checkpoint's settings: what decides the vectors is in the fingerprint, what reaches elsewhere is refused."""

import json
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from m3plugins import M3Encoder
from m3plugins.encoding.backends.torch import load_encoder
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.reranking import CrossEncoderReranker


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects fails the test, also behind a broad `except`."""
    tried: list[object] = []

    def connect(self: socket.socket, address: object) -> None:
        tried.append(address)
        msg = f"connected to {address}"
        raise AssertionError(msg)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: connect(None, address))
    yield
    assert tried == []


def change(folder: Path, name: str, **values: object) -> Path:
    path = folder / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))
    return folder


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"num_hidden_layers": 1}),
        ("config.json", {"num_attention_heads": 2}),
        ("config.json", {"hidden_act": "relu"}),
        ("config.json", {"layer_norm_eps": 1e-5}),
        ("config.json", {"is_decoder": True}),
        ("config.json", {"pruned_heads": {"0": [1]}}),
        ("config.json", {"of_a_later_transformers": 1}),
        ("config.json", {"tokenizer_class": "BertTokenizer"}),
        ("tokenizer_config.json", {"do_lower_case": True}),
        ("tokenizer_config.json", {"cls_token": "</s>", "sep_token": "<s>"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": "fox", "special": True}}}),
        ("tokenizer_config.json", {"split_special_tokens": True}),
        ("special_tokens_map.json", {"cls_token": "</s>"}),
        ("added_tokens.json", {"fox": 300}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_settings_that_change_an_output_change_the_fingerprint(
    copy: Path, checkpoint: Path, name: str, values: Mapping[str, object]
):
    assert Checkpoint(change(copy, name, **values)).fingerprint() != Checkpoint(checkpoint).fingerprint()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"_name_or_path": "/home/me/model", "transformers_version": "4.0.0"}),
        ("config.json", {"torch_dtype": "float16", "dtype": "bfloat16"}),
        ("config.json", {"architectures": ["XLMRobertaForMaskedLM"]}),
        ("config.json", {"attn_implementation": "eager", "_attn_implementation": "sdpa"}),
        ("config.json", {"hidden_dropout_prob": 0.1, "initializer_range": 0.5, "use_cache": False}),
        ("config.json", {"output_attentions": False, "chunk_size_feed_forward": 0, "pruned_heads": {}}),
        ("config.json", {"position_embedding_type": "absolute"}),
        ("tokenizer_config.json", {"name_or_path": "there", "model_max_length": 512, "padding_side": "left"}),
        ("tokenizer_config.json", {"chat_template": "{{ x }}"}),
        ("tokenizer.json", {"version": "2.0", "truncation": {"max_length": 8}, "padding": {"length": 8}}),
        ("generation_config.json", {"temperature": 2}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_settings_without_effect_do_not_change_the_fingerprint(
    copy: Path, checkpoint: Path, name: str, values: Mapping[str, object]
):
    assert Checkpoint(change(copy, name, **values)).fingerprint() == Checkpoint(checkpoint).fingerprint()


def test_a_tokenizer_and_its_fast_twin_have_one_fingerprint(copy: Path, checkpoint: Path):
    name = json.loads((copy / "tokenizer_config.json").read_text())["tokenizer_class"]
    other = name.removesuffix("Fast") if name.endswith("Fast") else f"{name}Fast"
    change(copy, "tokenizer_config.json", tokenizer_class=other)
    assert Checkpoint(copy).fingerprint() == Checkpoint(checkpoint).fingerprint()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_the_order_of_keys_and_whitespace_do_not_change_the_fingerprint(copy: Path, checkpoint: Path, name: str):
    content = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert Checkpoint(copy).fingerprint() == Checkpoint(checkpoint).fingerprint()


def test_the_former_fingerprint_leaves_settings_out_and_counts_weights(copy: Path, checkpoint: Path):
    before = Checkpoint(checkpoint).former_fingerprint()
    assert Checkpoint(change(copy, "config.json", num_hidden_layers=1)).former_fingerprint() == before
    tensors = load_file(copy / "model.safetensors")
    tensors[next(iter(tensors))][0] += 1e-3
    save_file(tensors, copy / "model.safetensors")
    assert Checkpoint(copy).former_fingerprint() != before


def sharded(folder: Path, weight_map: str = "model-{}.safetensors") -> Path:
    """The weights in two files, and the index that says which has which."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: str(1 + number % 2) for number, name in enumerate(tensors)}
    for part in "12":
        some = {name: tensor for name, tensor in tensors.items() if names[name] == part}
        save_file(some, folder / f"model-{part}.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: weight_map.format(part) for name, part in names.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_weights_in_shards_are_read(copy: Path, encoder: M3Encoder):
    again = M3Encoder.from_pretrained(sharded(copy))
    assert (again.encode_documents(["fox"]).dense == encoder.encode_documents(["fox"]).dense).all()


@pytest.mark.parametrize("place", ["../model-{}.safetensors", "/tmp/model-{}.safetensors", "other-{}.safetensors"])
def test_a_weight_map_to_files_that_are_not_the_checkpoints_is_refused(copy: Path, place: str):
    with pytest.raises(
        ValueError, match="must name weights in that folder, got '.*-1.safetensors'; save the model anew"
    ):
        M3Encoder.from_pretrained(sharded(copy, place))


def test_another_assignment_of_weights_to_shards_changes_the_fingerprint(copy: Path):
    before = Checkpoint(sharded(copy)).fingerprint()
    path = copy / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "model-2.safetensors"
    path.write_text(json.dumps(index))
    assert Checkpoint(copy).fingerprint() != before


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}),
        ("config.json", {"transformers_weights": "../outside.safetensors"}),
        ("config.json", {"fusion_config": {"patch_embeddings": True}}),
        ("config.json", {"experts_implementation": "somebody/kernels"}),
        ("tokenizer_config.json", {"tokenizer_file": "/outside/tokenizer.json"}),
        ("tokenizer_config.json", {"vocab_file": "../vocab.txt"}),
        ("tokenizer_config.json", {"gguf_file": "model.gguf"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_a_setting_that_takes_something_from_elsewhere_is_refused_by_name(
    copy: Path, name: str, values: Mapping[str, object]
):
    (key,) = values
    for load in (M3Encoder.from_pretrained, lambda folder: CrossEncoderReranker(folder).warm_up()):
        with pytest.raises(ValueError, match=f"{name} must not have '{key}': its|{name} must not have '{key}': it may"):
            load(change(copy, name, **values))


@pytest.mark.parametrize("name", ["adapter_config.json", "shard-00000-model-00001-of-00001.safetensors"])
def test_a_file_that_would_change_or_replace_the_weights_is_refused_by_name(copy: Path, name: str):
    (copy / name).write_text("{}")
    with pytest.raises(ValueError, match=f"must hold one model and nothing to change its weights, it has {name}; "):
        M3Encoder.from_pretrained(copy)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("asked", ["kernels-community/flash-attn", "flash_attention_2", "nope"])
def test_the_attention_that_a_checkpoint_asks_for_is_not_obeyed(copy: Path, no_network: None, key: str, asked: str):
    model = load_encoder(Checkpoint(change(copy, "config.json", **{key: asked})))
    assert model.config._attn_implementation == "sdpa"


def test_a_precision_that_a_checkpoint_asks_for_does_not_round_its_weights(copy: Path, encoder: M3Encoder):
    again = M3Encoder.from_pretrained(change(copy, "config.json", torch_dtype="float16", dtype="float16"))
    assert (again.encode_documents(["fox"]).dense == encoder.encode_documents(["fox"]).dense).all()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("prefix", ["", "somebody/repository--"])
def test_code_that_a_checkpoint_names_is_neither_fetched_nor_run(
    copy: Path, no_network: None, name: str, prefix: str, tmp_path: Path
):
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    classes = dict.fromkeys(("AutoConfig", "AutoModel"), f"{prefix}evil.Evil")
    change(copy, name, auto_map={**classes, "AutoTokenizer": [f"{prefix}evil.Evil", None]})
    assert M3Encoder.from_pretrained(copy).encode_documents(["fox"]).dense is not None
    assert not (tmp_path / "ran").exists()


def test_a_model_that_only_a_checkpoints_own_code_could_make_is_refused(copy: Path, no_network: None):
    change(copy, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    with pytest.raises(ValueError, match=r"got 'evil'; a checkpoint's own code is never run"):
        M3Encoder.from_pretrained(copy).warm_up()
