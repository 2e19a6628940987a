"""Whom the heads learn from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.training import (
    Batch,
    FrozenEnsemble,
    LiveEnsemble,
    M3Dataset,
    M3Model,
    MovingAverage,
    NoisyEnsemble,
    PerHead,
    StoredScores,
    Teacher,
    TokenBatch,
    m3_loss,
)
from m3plugins.training.loss.grad_cache import Chunks, Pair
from m3plugins.training.loss.joint import live_ensemble
from m3plugins.training.loss.scores import m3_logits, m3_scores
from tests.core.training.runs import OPTIONS, batch, curve, examples, tiny_checkpoint, trainer, weights
from tests.tiny import save_checkpoint


@pytest.fixture
def model(tiny: Path) -> M3Model:
    return M3Model(Checkpoint(tiny)).train()


@pytest.fixture(scope="module")
def texts(tiny: Path) -> Batch:
    return batch(tiny, scores=True)


def pair_of(model: M3Model, texts: Batch) -> Pair:
    return Pair(*model([texts.queries, texts.passages]))


def student_logits(model: M3Model, texts: Batch) -> dict[str, Tensor]:
    pair = pair_of(model, texts)
    return m3_logits(m3_scores(pair.queries, pair.passages, OPTIONS), OPTIONS)


def encoded_by(teacher: Teacher, texts: Batch) -> Pair:
    chunks = Chunks.cut(texts, 60)
    with torch.no_grad():
        return chunks.join([teacher.encode(chunk) for chunk in chunks.texts])


def logits_of(teacher: Teacher, model: M3Model, texts: Batch) -> Tensor:
    return teacher.scores(student_logits(model, texts), encoded_by(teacher, texts), texts)


def move(model: M3Model, by: float) -> None:
    for parameter in model.parameters():
        parameter.data += by


# --- each


def test_the_live_ensemble_is_the_losses_own(model: M3Model, texts: Batch) -> None:
    pair, teacher = pair_of(model, texts), LiveEnsemble()
    teacher.start(model, OPTIONS)

    def total(target: object) -> float:
        return m3_loss(pair.queries, pair.passages, OPTIONS, groups=texts.groups, teacher=target).total.item()

    assert total(lambda student: teacher.scores(student, None, texts)) == total(live_ensemble)


def test_the_frozen_ensemble_is_the_student_as_it_was(model: M3Model, texts: Batch) -> None:
    teacher = FrozenEnsemble()
    teacher.start(model, OPTIONS)
    before = student_logits(model, texts)["ensemble"].detach()
    move(model, 0.05)
    teacher.update(1)
    after = student_logits(model, texts)["ensemble"].detach()
    found = logits_of(teacher, model, texts)
    assert torch.allclose(found, before, atol=1e-5)
    assert not torch.allclose(found, after, atol=1e-2)


def test_another_model_may_be_the_frozen_teacher_and_is_not_saved(model: M3Model, texts: Batch, tiny: Path) -> None:
    other = M3Model(Checkpoint(tiny))
    move(other, 0.05)
    expected = student_logits(other, texts)["ensemble"].detach()
    teacher = FrozenEnsemble(other)
    teacher.start(model, OPTIONS)
    assert torch.allclose(logits_of(teacher, model, texts), expected, atol=1e-5)
    assert teacher.state_dict() == {}


def test_the_frozen_teacher_may_be_named_by_its_folder(
    model: M3Model, texts: Batch, tiny: Path, tmp_path: Path
) -> None:
    other = M3Model(Checkpoint(tiny))
    move(other, 0.05)
    other.save(tmp_path / "other")
    by_name, given = FrozenEnsemble(str(tmp_path / "other")), FrozenEnsemble(other)
    for teacher in (by_name, given):
        teacher.start(model, OPTIONS)
    assert torch.allclose(logits_of(by_name, model, texts), logits_of(given, model, texts), atol=1e-5)
    assert by_name.state_dict() == {}


def test_the_moving_average_follows_its_formula(model: M3Model) -> None:
    """The plain mean of the weights at first, then decay·average + (1 - decay)·weights."""
    teacher, decay, name = MovingAverage(0.6), 0.6, "colbert_linear.weight"
    teacher.start(model, OPTIONS)
    weight = dict(model.named_parameters())[name]
    seen = [weight.detach().clone()]
    for step in (1, 2):  # 1/2 and 2/3, which is over 0.6
        move(model, 0.1 * step)
        seen.append(weight.detach().clone())
        teacher.update(step)
    mean = (seen[0] + seen[1]) / 2
    assert torch.allclose(teacher.state_dict()[name], decay * mean + (1 - decay) * seen[2], atol=1e-6)


def test_the_moving_average_starts_as_the_plain_mean(model: M3Model) -> None:
    teacher, name = MovingAverage(0.999), "sparse_linear.weight"
    teacher.start(model, OPTIONS)
    weight = dict(model.named_parameters())[name]
    seen = [weight.detach().clone()]
    for step in range(1, 5):
        move(model, 0.1 * step)
        seen.append(weight.detach().clone())
        teacher.update(step)
    assert torch.allclose(teacher.state_dict()[name], torch.stack(seen).mean(0), atol=1e-6)


@pytest.mark.parametrize("kind", [FrozenEnsemble, MovingAverage])
def test_a_copied_teacher_is_saved_and_restored(tiny: Path, texts: Batch, kind: type[FrozenEnsemble]) -> None:
    model, teacher = M3Model(Checkpoint(tiny)), kind()
    teacher.start(model, OPTIONS)
    move(model, 0.02)
    teacher.update(1)
    state = copy.deepcopy(teacher.state_dict())
    expected = logits_of(teacher, model, texts)

    resumed = kind()
    resumed.start(model, OPTIONS)  # from a student that has moved on
    assert not torch.allclose(logits_of(resumed, model, texts), expected, atol=1e-3)
    resumed.load_state_dict(state)
    assert torch.equal(logits_of(resumed, model, texts), expected)


def test_heads_that_are_not_trained_teach_too(tiny: Path, texts: Batch) -> None:
    """The moving average is of the student, whose other heads do not follow its encoder."""
    student, whole = M3Model(Checkpoint(tiny), heads=("sparse",)), M3Model(Checkpoint(tiny))
    expected = {
        FrozenEnsemble: student_logits(whole, texts)["ensemble"],
        MovingAverage: student_logits(student, texts)["sparse"],
    }
    for kind, logits in expected.items():
        teacher = kind()
        teacher.start(student, OPTIONS)
        assert torch.allclose(logits_of(teacher, student, texts), logits.detach(), atol=1e-5)


def test_one_head_is_taught_at_its_own_temperature(tiny: Path, texts: Batch) -> None:
    """The ensemble's would be one that nobody thought of."""
    student, teacher = M3Model(Checkpoint(tiny), heads=("sparse",)), FrozenEnsemble()
    teacher.start(student, replace(OPTIONS, temperature=PerHead(sparse=0.05)))
    expected = student_logits(M3Model(Checkpoint(tiny)), texts)["ensemble"] * OPTIONS.temperature / 0.05
    assert torch.allclose(logits_of(teacher, student, texts), expected.detach(), atol=1e-4)


def test_a_teacher_of_other_tokens_is_refused(model: M3Model, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path)
    tokenizer = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(tokenizer.replace('"▁p"', '"▁%"'), encoding="utf-8")
    with pytest.raises(ValueError, match="a teacher must have the student's tokenizer, got "):
        FrozenEnsemble(str(other)).start(model, OPTIONS)


def test_texts_that_a_teacher_cannot_read_are_told(model: M3Model, texts: Batch, tmp_path: Path) -> None:
    short = save_checkpoint(tmp_path, hidden_size=16, heads=2, max_length=8)
    teacher = FrozenEnsemble(str(short))
    teacher.start(model, OPTIONS)
    with pytest.raises(ValueError, match="the teacher reads texts of at most 8 tokens, got one of "):
        teacher.encode(texts.passages)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError) as error:
        MovingAverage(decay)
    assert str(error.value) == f"decay must be at least 0 and below 1, got {decay}"


def test_the_noisy_ensemble_differs_between_passes(tiny_with_dropout: Path, texts: Batch) -> None:
    model, teacher = M3Model(Checkpoint(tiny_with_dropout)).train(), NoisyEnsemble()
    teacher.start(model, OPTIONS)
    assert not torch.allclose(logits_of(teacher, model, texts), logits_of(teacher, model, texts), atol=1e-3)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_noisy_ensemble_needs_dropout(tiny: Path, tiny_with_dropout: Path, frozen: bool) -> None:
    model = M3Model(Checkpoint(tiny_with_dropout if frozen else tiny), freeze_encoder=frozen)
    with pytest.raises(ValueError) as error:
        NoisyEnsemble().start(model, OPTIONS)
    assert str(error.value) == (
        "NoisyEnsemble needs an encoder that is trained with dropout, this one has none; use LiveEnsemble"
    )


def test_stored_scores_stand_in_their_querys_group_alone(model: M3Model, texts: Batch) -> None:
    """Also where two queries share a passage."""
    groups = texts.groups.clone()
    groups[1, 1] = groups[0, 1]
    found = StoredScores(temperature=2.0).scores(student_logits(model, texts), None, replace(texts, groups=groups))
    for query, own in enumerate(groups):
        assert found[query, own].tolist() == pytest.approx((texts.teacher_scores[query] / 2).tolist())
        assert int(found[query].isneginf().sum()) == len(texts.passages) - len(own)


def test_distilling_stored_scores_is_the_divergence_on_the_group(model: M3Model, texts: Batch) -> None:
    """KL(teacher ‖ head) and the teacher's entropy, over each query's own passages."""
    pair, teacher = pair_of(model, texts), StoredScores()
    loss = m3_loss(
        pair.queries, pair.passages, OPTIONS, groups=texts.groups,
        teacher=lambda student: teacher.scores(student, None, texts),
    )  # fmt: skip
    group = torch.arange(len(texts.passages)).view(len(texts.queries), -1)
    target = texts.teacher_scores.softmax(-1)
    entropy = -(target * target.log()).sum(-1)
    for head, logits in student_logits(model, texts).items():
        if head != "ensemble":
            own = logits.gather(1, group).log_softmax(-1)
            divergence = torch.nn.functional.kl_div(own, target, reduction="none").sum(-1)
            expected = (divergence + entropy).mean().item()
            assert loss.terms[f"{head}_distillation"].item() == pytest.approx(expected, rel=1e-5)


def test_without_stored_scores_there_is_nothing_to_teach(model: M3Model, tiny: Path) -> None:
    texts = batch(tiny)
    assert StoredScores().scores(student_logits(model, texts), None, texts) is None


# --- in the trainer


class Lexical(Teacher):
    def scores(self, student: Mapping[str, Tensor], representations: Pair | None, batch: Batch) -> Tensor | None:
        return student["sparse"]


class Watching(FrozenEnsemble):
    """Writes down how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[int] = []
        self.gradients: set[bool] = set()
        self.updates: list[int] = []

    def encode(self, chunk: TokenBatch):
        self.chunks.append(chunk.mask.numel())
        found = super().encode(chunk)
        self.gradients |= {torch.is_grad_enabled(), *(tensor.requires_grad for tensor in found.floating)}
        return found

    def update(self, step: int) -> None:
        self.updates.append(step)


def test_a_teacher_of_three_lines_is_followed(tiny: Path, tmp_path: Path) -> None:
    """It teaches the lexical head itself: the divergence is that head's own entropy."""
    own, live = trainer(tiny, tmp_path, teacher=Lexical(), max_steps=1), trainer(tiny, tmp_path, max_steps=1)
    own.train()
    live.train()
    (found,), (expected,) = curve(own), curve(live)
    assert found["loss_sparse"] == expected["loss_sparse"]
    assert found["loss_dense_distillation"] != expected["loss_dense_distillation"]


def test_a_teacher_encodes_in_chunks_and_without_gradient(tiny: Path, tmp_path: Path) -> None:
    teacher = Watching()
    trainer(tiny, tmp_path, teacher=teacher, max_steps=3, chunk_tokens=80).train()
    assert teacher.gradients == {False}
    assert max(teacher.chunks) <= 80 and len(teacher.chunks) > 6
    assert teacher.updates == [1, 2, 3]


def test_a_teacher_is_told_of_optimizer_steps(tiny: Path, tmp_path: Path) -> None:
    teacher = Watching()
    trainer(
        tiny, tmp_path, teacher=teacher, max_steps=2, gradient_accumulation_steps=2, per_device_train_batch_size=2
    ).train()
    assert teacher.updates == [1, 2]


def test_in_training_the_frozen_teacher_stays_and_the_average_follows(tiny: Path, tmp_path: Path) -> None:
    name = "encoder.encoder.layer.0.output.dense.weight"
    found = {}
    for teacher in (FrozenEnsemble(), MovingAverage(0.5)):
        run = trainer(tiny, tmp_path, teacher=teacher, max_steps=2)
        start = weights(run)[name]
        run.train()
        found[type(teacher)] = (start, teacher.state_dict()[name].clone(), weights(run)[name])
    start, frozen, end = found[FrozenEnsemble]
    assert torch.equal(start, frozen) and not torch.equal(start, end)
    start, average, end = found[MovingAverage]
    assert not torch.equal(average, start) and not torch.equal(average, end)


@pytest.mark.parametrize("kind", [NoisyEnsemble, StoredScores, MovingAverage, FrozenEnsemble])
@pytest.mark.parametrize("heads", [("dense", "sparse", "multi_vector"), ("dense",)])
def test_every_teacher_teaches_three_heads_and_one(
    tiny_with_dropout: Path, tmp_path: Path, kind: type[Teacher], heads: tuple[str, ...]
) -> None:
    """But the live ensemble of one head, which is that head."""
    run = trainer(tiny_with_dropout, tmp_path, teacher=kind(), scores=True, heads=heads, max_steps=2)
    run.train()
    assert {f"loss_{head}_distillation" for head in heads} <= curve(run)[-1].keys()


def test_one_head_alone_has_no_live_ensemble(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, heads=("dense",), max_steps=1)
    run.train()
    assert "loss_dense" in curve(run)[0] and "loss_dense_distillation" not in curve(run)[0]


@pytest.mark.parametrize("kind", [NoisyEnsemble, StoredScores, MovingAverage, FrozenEnsemble])
def test_every_teacher_can_be_evaluated_with_before_training_and_stays_the_same(
    tiny_with_dropout: Path, tmp_path: Path, kind: type[Teacher]
) -> None:
    data = M3Dataset.from_examples(examples(scores=True))
    plain, evaluated = (
        trainer(tiny_with_dropout, tmp_path, teacher=kind(), data=data, eval_dataset=data, max_steps=2)
        for _ in range(2)
    )
    assert "eval_loss_dense_distillation" in evaluated.evaluate()
    evaluated.train()
    plain.train()
    assert [entry for entry in curve(evaluated) if "loss" in entry] == curve(plain)


def test_a_named_teacher_does_not_change_the_random_numbers_of_the_run(tiny_with_dropout: Path, tmp_path: Path) -> None:
    """Loading it draws some."""
    curves = []
    for start in (True, False):
        run = trainer(tiny_with_dropout, tmp_path, teacher=FrozenEnsemble(str(tiny_with_dropout)), max_steps=2)
        if start:
            run._objective.start_teacher()
        run.train()
        curves.append(curve(run))
    assert curves[0] == curves[1]
