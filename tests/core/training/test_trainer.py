"""The trainer: what it trains, what it leaves, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import MULTI_VECTOR_HEAD, SPARSE_HEAD, Checkpoint
from m3plugins.training import M3Dataset, PerHead, Teacher
from m3plugins.training.loss.grad_cache import Chunks, Pair
from tests.core.training.runs import assert_same_gradients, batch, curve, examples, gradients, trainer, weights

HEADS = ("dense", "sparse", "multi_vector")


def saved(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder."""
    checkpoint = Checkpoint(folder)
    heads = {
        f"{head}.{name}": tensor
        for head in (SPARSE_HEAD, MULTI_VECTOR_HEAD)
        for name, tensor in checkpoint.load_head(head).items()
    }
    return load_file(folder / "model.safetensors") | heads


def changed(folder: Path, base: Path) -> set[str]:
    """Names of the tensors that are not bit for bit those of the checkpoint that training started from."""
    before, after = saved(base), saved(folder)
    assert after.keys() <= before.keys()
    assert {name for name in before.keys() - after.keys() if not name.startswith("pooler.")} == set()
    return {name for name in after if not torch.equal(before[name], after[name])}


# --- what is trained


def test_training_lowers_every_loss(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, max_steps=60, learning_rate=2e-3, temperature=0.1)
    run.train()
    first, last = ({name: entry[f"loss_{name}"] for name in HEADS} for entry in (curve(run)[0], curve(run)[-1]))
    assert curve(run)[-1]["loss"] < 0.5 * curve(run)[0]["loss"]
    assert all(last[name] < first[name] for name in ("dense", "multi_vector"))


@pytest.mark.parametrize("kind", ["full", "lora", "frozen"])
def test_the_saved_model_is_the_trained_one_and_only_what_was_trained_has_changed(
    tiny: Path, tmp_path: Path, kind: str
) -> None:
    run = trainer(tiny, tmp_path / "run", train_encoder=kind, lora_rank=2, max_steps=3, temperature=0.5)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    live = run.model.eval()
    texts = batch(tiny).passages
    with torch.no_grad():
        (expected,) = live([texts])
        again = type(live)(Checkpoint(tmp_path / "saved")).eval()
        (found,) = again([texts])
    for one, other in zip(found.floating, expected.floating, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    moved = changed(tmp_path / "saved", tiny)
    heads = {name for name in moved if "_linear" in name}
    assert heads == {f"{head}.{part}" for head in (SPARSE_HEAD, MULTI_VECTOR_HEAD) for part in ("weight", "bias")}
    encoder = moved - heads
    if kind == "frozen":
        assert not encoder
    elif kind == "lora":
        assert encoder and all(name.endswith(".weight") and ".layer." in name for name in encoder)
    else:
        assert "embeddings.word_embeddings.weight" in encoder


@pytest.mark.parametrize(
    ("heads", "untouched"),
    [
        (("dense",), {SPARSE_HEAD, MULTI_VECTOR_HEAD}),
        (("dense", "sparse"), {MULTI_VECTOR_HEAD}),
        (("multi_vector",), {SPARSE_HEAD}),
        (("sparse", "multi_vector"), set()),
    ],
)
def test_heads_that_are_left_out_stay_bit_for_bit(
    tiny: Path, tmp_path: Path, heads: tuple[str, ...], untouched: set[str]
) -> None:
    run = trainer(tiny, tmp_path / "run", heads=heads, max_steps=2, temperature=0.5, weight_decay=0.1)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    moved = {name.split(".")[0] for name in changed(tmp_path / "saved", tiny)}
    assert moved & {SPARSE_HEAD, MULTI_VECTOR_HEAD} == {SPARSE_HEAD, MULTI_VECTOR_HEAD} - untouched
    assert {name for name in curve(run)[0] if name.startswith("loss_") and "distillation" not in name} == {
        f"loss_{name}" for name in (*heads, *["ensemble"] * (len(heads) > 1))
    }


def test_heads_have_a_learning_rate_of_their_own(tiny: Path, tmp_path: Path) -> None:
    run = trainer(
        tiny, tmp_path, learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.1, learn_temperature=True,
        temperature_learning_rate=5e-2,
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    names |= {id(parameter): f"temperature {name}" for name, parameter in run.temperatures.items()}
    groups = {
        (group["lr"], group["weight_decay"]): {names[id(parameter)] for parameter in group["params"]}
        for group in run.create_optimizer().param_groups
    }
    assert groups[1e-2, 0.1] == {"sparse_linear.weight", "colbert_linear.weight"}
    assert groups[1e-2, 0.0] == {"sparse_linear.bias", "colbert_linear.bias"}
    assert groups[5e-2, 0.0] == {f"temperature {name}" for name in (*HEADS, "ensemble")}
    assert all(name.startswith("encoder.") for rate, decay in groups if rate == 1e-4 for name in groups[rate, decay])
    assert not any("LayerNorm" in name or name.endswith("bias") for name in groups[1e-4, 0.1])
    assert set().union(*groups.values()) == set(names.values())


def test_each_head_may_have_a_learning_rate_of_its_own(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, learning_rate=1e-4, head_learning_rate={"sparse": 1e-2})
    rates = {
        id(parameter): group["lr"] for group in run.create_optimizer().param_groups for parameter in group["params"]
    }
    found = {name.split(".")[0]: rates[id(parameter)] for name, parameter in run.model.named_parameters()}
    assert found == {"encoder": 1e-4, "sparse_linear": 1e-2, "colbert_linear": 1e-4}


def test_a_learning_rate_of_0_for_the_heads_is_one(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path / "run", head_learning_rate=0.0, max_steps=2, temperature=0.5)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    moved = changed(tmp_path / "saved", tiny)
    assert moved and not any("_linear" in name for name in moved)


@pytest.mark.filterwarnings("error:Converting a tensor")
def test_temperatures_are_learned_and_logged(tiny: Path, tmp_path: Path) -> None:
    start = PerHead(dense=0.1, sparse=0.2, multi_vector=0.3, ensemble=0.4)
    run = trainer(
        tiny, tmp_path, learn_temperature=True, temperature=start, temperature_learning_rate=0.05, max_steps=2
    )
    run.train()
    first, last = curve(run)
    for name in (*HEADS, "ensemble"):
        assert last[f"temperature_{name}"] == pytest.approx(run.temperatures[name].detach().exp().item())
        assert last[f"temperature_{name}"] != pytest.approx(start[name], rel=1e-3)


def test_trained_again_the_temperatures_are_still_learned(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, learn_temperature=True, temperature=0.3, temperature_learning_rate=0.05, max_steps=2)
    run.train()
    before = {name: float(value) for name, value in run.temperatures.items()}
    run.train()
    assert all(float(value) != before[name] for name, value in run.temperatures.items())


# --- the loss of a step


def gradient_of_pair(run: Any, texts: Any) -> tuple[Any, Pair]:
    """The trainer's loss, differentiated by the representations."""
    pair = Pair(*run.model.train()([texts.queries, texts.passages]))
    leaves = Pair(
        *(side.map(lambda tensor: tensor.detach().requires_grad_()) for side in (pair.queries, pair.passages))
    )
    loss = run.loss(Chunks.cut(texts, 4096), leaves)
    loss.total.backward()
    return loss, leaves


def test_without_in_batch_negatives_other_queries_passages_have_no_influence(tiny: Path, tmp_path: Path) -> None:
    texts = batch(tiny, queries=4)
    run = trainer(tiny, tmp_path, in_batch_negatives=False, temperature=0.5)
    pair = Pair(*run.model.train()([texts.queries, texts.passages]))
    leaves = pair.passages.map(lambda tensor: tensor.detach().requires_grad_())
    first_query = pair.queries.map(lambda tensor: tensor * (torch.arange(4) == 0).view(4, *[1] * (tensor.dim() - 1)))
    run.loss(Chunks.cut(texts, 4096), Pair(first_query, leaves)).total.backward()
    for tensor in leaves.floating:
        assert float(tensor.grad[:3].norm()) > 0
        assert float(tensor.grad[3:].norm()) == 0


def test_with_in_batch_negatives_they_have(tiny: Path, tmp_path: Path) -> None:
    texts = batch(tiny, queries=4)
    run = trainer(tiny, tmp_path, temperature=0.5)
    pair = Pair(*run.model.train()([texts.queries, texts.passages]))
    leaves = pair.passages.map(lambda tensor: tensor.detach().requires_grad_())
    first_query = pair.queries.map(lambda tensor: tensor * (torch.arange(4) == 0).view(4, *[1] * (tensor.dim() - 1)))
    run.loss(Chunks.cut(texts, 4096), Pair(first_query, leaves)).total.backward()
    assert all(float(tensor.grad[3:].norm()) > 0 for tensor in leaves.floating)


def excluded_by(checkpoint: Path, output: Path, texts: Any, **settings: Any) -> Tensor:
    """(Q, P) bool: passages that the dense loss of a query says nothing of."""
    run = trainer(checkpoint, output, heads=("dense",), temperature=0.5, **settings)
    pair, rows = Pair(*run.model.train()([texts.queries, texts.passages])), []
    for query in range(len(texts.queries)):
        passages = pair.passages.map(lambda tensor: tensor.detach().requires_grad_())
        alone = pair.queries.map(
            lambda tensor, query=query: tensor.detach() * (torch.arange(len(tensor)) == query)[:, None]
        )
        run.loss(Chunks.cut(texts, 4096), Pair(alone, passages)).total.backward()
        rows.append(passages.dense.grad.norm(dim=1) == 0)
    return torch.stack(rows)


def test_another_positive_of_the_query_is_no_negative(tiny: Path, tmp_path: Path) -> None:
    rows = [row | {"neg": row["neg"][:1]} for row in examples()[:3]]
    rows[1]["query"] = rows[0]["query"]
    texts = collated(tiny, rows)  # of three groups of two
    assert excluded_by(tiny, tmp_path, texts).nonzero().tolist() == [[0, 2], [1, 0]]
    assert not excluded_by(tiny, tmp_path, texts, mask_known_positives=False).any()


def test_a_positive_may_be_another_querys_negative(tiny: Path, tmp_path: Path) -> None:
    rows = [row | {"neg": row["neg"][:1]} for row in examples()[:2]]
    rows[0]["neg"] = rows[1]["pos"]
    texts = collated(tiny, rows)
    assert texts.groups.tolist() == [[0, 1], [1, 2]]
    assert not excluded_by(tiny, tmp_path, texts).any()


def test_passages_that_score_nearly_as_the_positive_are_no_negatives(tiny: Path, tmp_path: Path) -> None:
    texts, ratio = batch(tiny, queries=4), 0.98
    assert not excluded_by(tiny, tmp_path, texts).any()
    queries, passages = trainer(tiny, tmp_path).model.eval()([texts.queries, texts.passages])
    scores = queries.dense @ passages.dense.T
    expected = (scores > ratio * scores.gather(1, texts.groups[:, :1])).scatter(1, texts.groups[:, :1], False)
    assert 0 < expected.sum() and (expected.sum(1) < len(texts.passages) - 1).all()
    assert torch.equal(excluded_by(tiny, tmp_path, texts, false_negative_ratio=ratio), expected)


def test_a_batch_of_one_passage_is_told(tiny: Path, tmp_path: Path) -> None:
    rows = [{name: row[name] for name in ("query", "pos")} for row in examples()]
    with pytest.warns(UserWarning, match="the queries of a batch have their positives alone, so nothing is learnt"):
        trainer(tiny, tmp_path, data=M3Dataset.from_examples(rows), batch_tokens=1, max_steps=1).train()


def test_missing_negatives_cost_no_tokens(tiny: Path, tmp_path: Path) -> None:
    """A token budget gives such queries as large batches as no negatives do."""
    rows = [{name: row[name] for name in ("query", "pos")} for row in examples()]
    sizes = []
    for negatives in (0, 7):
        run = trainer(tiny, tmp_path, data=M3Dataset.from_examples(rows), batch_tokens=200, negatives=negatives)
        sizes.append([(len(each.queries), each.passages.mask.numel()) for each in run.get_train_dataloader()])
    assert sizes[0] == sizes[1] and max(sizes[0])[0] > 1


def collated(checkpoint: Path, rows: list[dict[str, Any]]) -> Any:
    from m3plugins.training.data.collator import Draws, M3Collator
    from m3plugins.training.data.sampling import Draw

    draws = Draws(M3Dataset.from_examples(rows), negatives=1)
    collator = M3Collator(Checkpoint(checkpoint), query_max_length=16, passage_max_length=40)
    return collator([draws[Draw(0, row)] for row in range(len(rows))])


def test_an_external_teacher_adds_its_divergence(tiny: Path, tmp_path: Path) -> None:
    plain, taught = (
        trainer(tiny, tmp_path, scores=True, teacher_weight=weight, max_steps=1, self_distillation=False)
        for weight in (0.0, 2.0)
    )
    plain.train()
    taught.train()
    (without,), (with_it,) = curve(plain), curve(taught)
    assert all(with_it[f"loss_{name}"] > without[f"loss_{name}"] for name in (*HEADS, "ensemble"))


def test_self_distillation_starts_with_an_optimizer_step(tiny: Path, tmp_path: Path) -> None:
    """Not with a batch: here every step is of two."""
    run = trainer(
        tiny, tmp_path, distillation_start_step=2, max_steps=4, gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
    )  # fmt: skip
    run.train()
    assert [("loss_dense_distillation" in entry) for entry in curve(run)] == [False, False, True, True]


def test_without_self_distillation_no_step_has_it(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, self_distillation=False, max_steps=2)
    run.train()
    assert not any("distillation" in name for entry in curve(run) for name in entry)


def test_accumulated_batches_give_the_mean_of_their_gradients(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, temperature=0.5)
    run.model.double()
    parts = [batch(tiny, queries=3), batch(tiny, queries=5)]
    single = []
    for texts in parts:
        run.model.zero_grad()
        run.current_gradient_accumulation_steps = 1
        run.training_step(run.model, texts)
        single.append(gradients(run.model))
    run.model.zero_grad()
    run.current_gradient_accumulation_steps = 2
    for texts in parts:
        run.training_step(run.model, texts)
    expected = {name: (single[0][name] + single[1][name]) / 2 for name in single[0]}
    assert_same_gradients(gradients(run.model), expected)


# --- the same result by other ways


def curve_of(checkpoint: Path, output: Path, **settings: Any) -> list[dict[str, float]]:
    run = trainer(checkpoint, output, **settings)
    run.train()
    return curve(run)


def assert_close(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize(
    "settings",
    [{"chunk_tokens": 1}, {"chunk_tokens": 70}, {"gradient_checkpointing": True}, {"dataloader_num_workers": 2}],
    ids=lambda settings: next(iter(settings)) + f" {next(iter(settings.values()))}",
)
def test_the_curve_does_not_depend_on_how_it_is_computed(tiny: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    common = {"temperature": 0.2, "max_steps": 5}
    assert_close(curve_of(tiny, tmp_path, **common, **settings), curve_of(tiny, tmp_path, **common))


def test_cached_states_give_the_same_curve(tiny: Path, tmp_path: Path) -> None:
    common = {"temperature": 0.2, "max_steps": 8, "train_encoder": "frozen"}
    expected = curve_of(tiny, tmp_path, **common)
    for size in (1 << 20, 3000):  # all states, some
        assert_close(curve_of(tiny, tmp_path, **common, state_cache_bytes=size), expected)


def test_a_seed_gives_one_curve(tiny_with_dropout: Path, tmp_path: Path) -> None:
    first, again, other = (curve_of(tiny_with_dropout, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("kind", ["full", "lora", "frozen"])
def test_half_precision_trains_and_the_weights_stay_in_float32(tiny: Path, tmp_path: Path, kind: str) -> None:
    common = {"temperature": 0.2, "max_steps": 3, "train_encoder": kind}
    run = trainer(tiny, tmp_path, bf16=True, **common)
    run.train()
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}
    expected = curve_of(tiny, tmp_path, **common)
    assert curve(run)[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.1)


def test_gradient_checkpointing_trains_adapters(tiny: Path, tmp_path: Path) -> None:
    common = {"temperature": 0.2, "max_steps": 3, "train_encoder": "lora", "lora_rank": 2}
    assert_close(curve_of(tiny, tmp_path, **common, gradient_checkpointing=True), curve_of(tiny, tmp_path, **common))


# --- settings and what is told


def test_the_size_of_the_chunks_is_measured_where_none_is_given(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, chunk_tokens=None, max_steps=1, save_strategy="steps", save_steps=1)
    run.train()
    assert run.chunk_tokens >= 40
    stored = json.loads((tmp_path / "checkpoint-1" / "run.json").read_text())
    assert stored["chunk_tokens"] == run.chunk_tokens


def test_it_is_measured_with_gradient_checkpointing_if_the_steps_have_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measure(model: Any, **kwargs: Any) -> int:
        seen.append([layer.gradient_checkpointing for layer in model.encoder.encoder.layer])
        return 64

    monkeypatch.setattr("m3plugins.training.trainer.chunk_tokens", measure)
    for checkpointing in (True, False):
        trainer(tiny, tmp_path, chunk_tokens=None, max_steps=1, gradient_checkpointing=checkpointing).train()
    assert seen == [[True, True], [False, False]]


def test_an_encoder_may_be_given_in_place_of_a_folder(tiny: Path, tmp_path: Path) -> None:
    encoder = M3Encoder.from_pretrained(tiny)
    run = trainer(encoder, tmp_path, max_steps=1)
    run.train()
    assert run.encoder is encoder and len(curve(run)) == 1


def test_training_needs_data(tiny: Path, tmp_path: Path) -> None:
    from m3plugins.training import SelfDistillationTrainer
    from tests.core.training.runs import settings

    with pytest.raises(ValueError) as error:
        SelfDistillationTrainer(tiny, settings(tmp_path)).train()
    assert str(error.value) == "training needs a train_dataset, as in M3Dataset.from_jsonl(path)"


def test_a_log_is_of_all_steps_since_the_last(tiny: Path, tmp_path: Path) -> None:
    each, together = (curve_of(tiny, tmp_path, max_steps=4, logging_steps=steps) for steps in (1, 2))
    for name in ("loss", "loss_dense", "loss_ensemble", "loss_multi_vector_distillation"):
        means = [(each[step][name] + each[step + 1][name]) / 2 for step in (0, 2)]
        assert [entry[name] for entry in together] == pytest.approx(means, rel=1e-5)


class EverySecond(Teacher):
    """Has nothing to teach in the other batches."""

    asked = 0

    def scores(self, student: Any, representations: Any, batch: Any) -> Tensor | None:
        self.asked += 1
        return student["ensemble"] if self.asked % 2 else None


def test_a_log_is_the_mean_over_the_batches_that_had_the_term(tiny: Path, tmp_path: Path) -> None:
    each, together = (curve_of(tiny, tmp_path, teacher=EverySecond(), logging_steps=steps) for steps in (1, 4))
    name = "loss_dense_distillation"
    assert [name in entry for entry in each] == [True, False, True, False]
    assert together[0][name] == pytest.approx((each[0][name] + each[2][name]) / 2, rel=1e-5)


def test_the_loss_is_the_sum_of_its_logged_terms(tiny: Path, tmp_path: Path) -> None:
    (entry,) = curve_of(tiny, tmp_path, max_steps=1)
    contrastive = entry["loss_dense"] + 0.1 * entry["loss_sparse"] + entry["loss_multi_vector"] + entry["loss_ensemble"]
    distilled = (
        entry["loss_dense_distillation"]
        + 0.1 * entry["loss_sparse_distillation"]
        + entry["loss_multi_vector_distillation"]
    )
    assert entry["loss"] == pytest.approx((contrastive / 4 + distilled / 3) / 2, rel=1e-5)


def test_older_checkpoints_go_when_a_newer_one_is_whole(tiny: Path, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, max_steps=5, save_strategy="steps", save_steps=1, save_total_limit=2).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5"]


def test_a_checkpoint_folder_is_a_model(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=2, train_encoder="lora")
    run.train()
    run.save_model(str(tmp_path / "saved"))
    first, second = (
        M3Encoder.from_pretrained(folder).encode_queries(["fox?"]).dense
        for folder in (tmp_path / "run" / "checkpoint-2", tmp_path / "saved")
    )
    assert (first == second).all()
