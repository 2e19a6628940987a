"""The model in training: what it computes is what the encoder computes, and what it saves is a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.training import M3Model, Representations, TokenBatch
from m3plugins.training.data.collator import Drawn, M3Collator
from m3plugins.training.model import adapters
from m3plugins.training.model.state_cache import StateCache
from tests.core.training.runs import SPECIAL_IDS, batch, copy_of, gradients
from tests.tiny import SENTENCES

TEXTS = [*SENTENCES, "short", "fox " * 100]


def encoded(model: M3Model, texts: TokenBatch) -> Representations:
    with torch.no_grad():
        (found,) = model.eval()([texts])
    return found


def assert_encodes_as(folder: Path, model: M3Model) -> None:
    """A saved folder, opened as any checkpoint, gives the vectors of the live model."""
    output = M3Encoder.from_pretrained(folder).encode_documents(TEXTS)
    collator = M3Collator(Checkpoint(folder), query_max_length=64, passage_max_length=64)
    texts = collator([Drawn(query="?", passages=tuple(TEXTS), positives=(TEXTS[0],), scores=None)]).passages
    live = encoded(model, texts)
    assert np.abs(output.dense - live.dense.numpy()).max() <= 1e-5
    for row, mask in enumerate(texts.mask[:, 1:]):
        assert np.abs(output.multi_vector[row] - live.multi_vector.vectors[row][mask].numpy()).max() <= 1e-5
        expected: dict[int, float] = {}
        for token, weight in zip(texts.input_ids[row].tolist(), live.sparse.weights[row].tolist(), strict=True):
            if token not in SPECIAL_IDS and weight > 0:
                expected[token] = max(weight, expected.get(token, 0.0))
        assert output.sparse[row].to_dict() == pytest.approx(expected, abs=1e-5)


def changed(model: M3Model) -> M3Model:
    """As if it had been trained: every parameter that is trained has moved."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def model_of(kind: str, checkpoint: Path) -> M3Model:
    model = M3Model(Checkpoint(checkpoint), freeze_encoder=kind == "frozen")
    if kind == "lora":
        adapters.add_lora(model.encoder, rank=2, alpha=4, dropout=0.0)
    return model


@pytest.mark.parametrize("kind", ["full", "lora", "frozen"])
def test_before_training_it_is_the_checkpoint(tiny: Path, kind: str) -> None:
    assert_encodes_as(tiny, model_of(kind, tiny))


@pytest.mark.parametrize("kind", ["full", "lora", "frozen"])
def test_what_is_saved_gives_the_vectors_of_the_live_model(tiny: Path, tmp_path: Path, kind: str) -> None:
    model = changed(model_of(kind, tiny))
    model.save(tmp_path)
    assert_encodes_as(tmp_path, model)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["full", "lora", "frozen"])
def test_the_reference_reads_what_is_saved(tiny: Path, tmp_path: Path, kind: str) -> None:
    from FlagEmbedding import BGEM3FlagModel

    changed(model_of(kind, tiny)).save(tmp_path)
    ours = M3Encoder.from_pretrained(tmp_path).encode_documents(TEXTS)
    theirs = BGEM3FlagModel(str(tmp_path), use_fp16=False, devices="cpu").encode(
        TEXTS, batch_size=4, max_length=64, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    assert np.abs(ours.dense - theirs["dense_vecs"]).max() <= 1e-5
    for row in range(len(TEXTS)):
        assert np.abs(ours.multi_vector[row] - theirs["colbert_vecs"][row]).max() <= 1e-5
        expected = {int(token): float(weight) for token, weight in theirs["lexical_weights"][row].items()}
        assert ours.sparse[row].to_dict() == pytest.approx(expected, abs=1e-5)


def test_merging_adapters_changes_nothing_in_the_model(tiny: Path, tmp_path: Path) -> None:
    model = changed(model_of("lora", tiny))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save(tmp_path)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_saved_folder_has_the_files_of_the_one_it_came_from(tiny: Path, tmp_path: Path) -> None:
    base = copy_of(tiny, tmp_path / "base")
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (base / "sentencepiece.bpe.model").write_bytes(b"pieces")
    (base / "modules.json").write_text("[]")
    for name in ("sentence_bert_config.json", "config_sentence_transformers.json"):
        (base / name).write_text("{}")  # or sentence-transformers would pool by the mean, and not normalise
    M3Model(Checkpoint(base)).save(tmp_path / "saved")
    assert Checkpoint(tmp_path / "saved").pooling == "mean"
    assert (tmp_path / "saved" / "sentencepiece.bpe.model").read_bytes() == b"pieces"
    assert {path.name for path in base.iterdir()} <= {path.name for path in (tmp_path / "saved").iterdir()}


def test_a_checkpoint_that_lacks_weights_of_its_encoder_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Those of the pooler, which nobody uses, may be missing."""
    from safetensors.torch import save_file

    base = copy_of(tiny, tmp_path / "base")
    state = load_file(base / "model.safetensors")
    whole = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    save_file(whole, base / "model.safetensors", {"format": "pt"})
    assert_encodes_as(base, M3Model(Checkpoint(base)))
    missing = {"encoder.layer.1.output.dense.weight", "encoder.layer.1.output.dense.bias"}
    half = {name: tensor for name, tensor in whole.items() if name not in missing}
    save_file(half, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError) as error:
        M3Model(Checkpoint(base))
    assert str(error.value) == (
        f"a checkpoint must hold all weights of its encoder, {base} lacks 2 of them, "
        "such as encoder.layer.1.output.dense.bias; download it again, or save it from the whole model"
    )


def test_saving_into_the_folder_it_came_from_keeps_its_files(tiny: Path, tmp_path: Path) -> None:
    base = copy_of(tiny, tmp_path / "base")
    model = changed(M3Model(Checkpoint(base)))
    model.save(base)
    assert_encodes_as(base, model)


def test_saving_writes_no_file_anew_that_weights_may_be_mapped_from(tiny: Path, tmp_path: Path) -> None:
    base = copy_of(tiny, tmp_path / "base")
    weights = base / "model.safetensors"
    os.link(weights, tmp_path / "mapped")
    before = weights.read_bytes()
    changed(M3Model(Checkpoint(base))).save(base)
    assert (tmp_path / "mapped").read_bytes() == before != weights.read_bytes()


def test_shards_of_what_was_there_before_do_not_stay(tiny: Path, tmp_path: Path) -> None:
    base = copy_of(tiny, tmp_path / "base")
    shutil.copyfile(base / "model.safetensors", base / "model-00001-of-00001.safetensors")
    M3Model(Checkpoint(tiny)).save(base)
    assert [file.name for file in Checkpoint(base).weight_files()] == ["model.safetensors"]


def test_padding_changes_nothing(tiny: Path) -> None:
    model, texts = M3Model(Checkpoint(tiny)), batch(tiny).passages
    row = int(texts.lengths.argmin())
    together, alone = encoded(model, texts), encoded(model, texts.select(torch.tensor([row])))
    length = int(texts.lengths[row])
    assert torch.allclose(together.dense[row], alone.dense[0], atol=1e-6)
    assert torch.allclose(together.sparse.weights[row, :length], alone.sparse.weights[0], atol=1e-6)
    assert torch.allclose(together.multi_vector.vectors[row, : length - 1], alone.multi_vector.vectors[0], atol=1e-6)


def test_heads_that_are_not_trained_are_not_computed_and_have_no_gradient(tiny: Path) -> None:
    model = M3Model(Checkpoint(tiny), heads=("sparse",))
    (found,) = model([batch(tiny).queries])
    assert found.heads == ("sparse",)
    found.sparse.weights.sum().backward()
    assert "colbert_linear.weight" not in model.trainable_state()
    assert "sparse_linear.weight" in gradients(model) and "colbert_linear.weight" not in gradients(model)


def test_a_frozen_encoder_has_no_gradient_and_no_dropout(tiny_with_dropout: Path) -> None:
    model, texts = M3Model(Checkpoint(tiny_with_dropout), freeze_encoder=True).train(), batch(tiny_with_dropout).queries
    (once,), (again,) = model([texts]), model([texts])
    assert torch.equal(once.dense, again.dense) and not once.dense.requires_grad
    assert set(model.trainable_state()) == {
        "sparse_linear.weight", "sparse_linear.bias", "colbert_linear.weight", "colbert_linear.bias"
    }  # fmt: skip


def test_lora_trains_its_matrices_and_the_heads(tiny: Path) -> None:
    trained = model_of("lora", tiny).trainable_state()
    encoder = [name for name in trained if name.startswith("encoder.")]
    assert encoder and all(".lora_" in name for name in encoder)
    assert {name for name in trained if not name.startswith("encoder.")} == {
        "sparse_linear.weight", "sparse_linear.bias", "colbert_linear.weight", "colbert_linear.bias"
    }  # fmt: skip


def test_half_precision_of_the_encoder_leaves_the_heads_in_float32(tiny: Path) -> None:
    model = M3Model(Checkpoint(tiny)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = model([batch(tiny).queries])
    assert {tensor.dtype for tensor in found.floating} == {torch.float32}


def test_a_checkpoint_in_half_precision_is_trained_in_float32(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = copy_of(tiny, tmp_path / "half")
    halves = {name: tensor.half() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(halves, base / "model.safetensors", {"format": "pt"})
    model = M3Model(Checkpoint(base))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert all(torch.equal(saved[name], halves[name].float()) for name in saved)


# --- the cache of a frozen encoder's states


def test_cached_states_are_those_of_the_encoder(tiny: Path) -> None:
    texts = batch(tiny).passages
    cached = M3Model(Checkpoint(tiny), freeze_encoder=True, state_cache=StateCache(1 << 20))
    plain = encoded(M3Model(Checkpoint(tiny), freeze_encoder=True), texts)
    for rows in (torch.tensor([3, 0, 5]), torch.arange(len(texts))):  # some kept, some not, in another order
        encoded(cached, texts.select(rows))
    found = encoded(cached, texts)
    assert torch.allclose(found.dense, plain.dense, atol=1e-6)
    assert torch.allclose(found.sparse.weights * texts.mask, plain.sparse.weights * texts.mask, atol=1e-6)
    mask = texts.mask[:, 1:, None]
    assert torch.allclose(found.multi_vector.vectors * mask, plain.multi_vector.vectors * mask, atol=1e-6)


def test_what_is_cached_is_not_encoded_again(tiny: Path) -> None:
    texts, cache, asked = batch(tiny).queries, StateCache(1 << 20), []

    def encode(missing: TokenBatch) -> torch.Tensor:
        asked.append(len(missing))
        return torch.rand(*missing.mask.shape, 4)

    first, second = cache.states(texts, encode), cache.states(texts, encode)
    assert asked == [len(texts)]
    assert torch.equal(first, second)


def test_the_cache_takes_no_more_than_its_bytes(tiny: Path) -> None:
    texts = batch(tiny).queries
    room = int(texts.lengths[:3].sum()) * 4 * 4  # of three texts in float32, 4 dimensions
    cache, asked = StateCache(room), []

    def encode(missing: TokenBatch) -> torch.Tensor:
        asked.append(missing)
        return torch.rand(*missing.mask.shape, 4)

    for _ in range(2):
        for row in range(len(texts)):
            cache.states(texts.select(torch.tensor([row])), encode)
    assert sum(states.nbytes for states in cache._states.values()) <= room
    again = asked[len(texts) :]
    assert len(again) == len(texts) - len(cache._states) > 0 and cache._states


def test_a_text_that_another_begins_with_is_another_text() -> None:
    ids = torch.tensor([[0, 7, 2, 1], [0, 7, 2, 7]])
    texts = TokenBatch(ids, torch.tensor([[True] * 3 + [False], [True] * 4]))
    cache = StateCache(1 << 20)

    def encode(missing: TokenBatch) -> torch.Tensor:
        return torch.cat([torch.full((1, missing.mask.shape[1], 1), float(length)) for length in missing.lengths])

    for _ in range(2):
        assert cache.states(texts, encode).squeeze(-1).tolist() == [[3.0, 3.0, 3.0, 0.0], [4.0] * 4]


def test_the_largest_dropout_is_found(tiny: Path, tiny_with_dropout: Path) -> None:
    assert M3Model(Checkpoint(tiny)).dropout == 0
    assert M3Model(Checkpoint(tiny_with_dropout)).dropout == pytest.approx(0.1)
