"""Teachers whose scores are the weighted sum of all heads: of the student, or of a model near it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import HEADS
from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.training.data.batch import Batch, TokenBatch
from m3plugins.training.loss.grad_cache import Pair
from m3plugins.training.loss.joint import live_ensemble
from m3plugins.training.loss.options import LossOptions
from m3plugins.training.loss.representations import Representations
from m3plugins.training.loss.scores import m3_scores
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.teachers.teacher import Teacher


class LiveEnsemble(Teacher):
    """M3's own teacher (arXiv 2402.03216, section 3.3): the weighted sum of the student's current scores."""

    def scores(self, student: Mapping[str, Tensor], representations: Pair | None, batch: Batch) -> Tensor | None:
        """Returns the ensemble's logits; None where one head is trained alone."""
        return live_ensemble(student)


class _EncodingTeacher(Teacher):
    """A teacher with a forward pass of its own, whose ensemble is the target."""

    def scores(self, student: Mapping[str, Tensor], representations: Pair | None, batch: Batch) -> Tensor | None:
        if representations is None:
            return None
        scores = m3_scores(representations.queries, representations.passages, self.options)
        name = "ensemble" if "ensemble" in scores else next(iter(scores))
        return scores[name] / self.options.temperature_of(name if name in student else next(iter(student)))


class FrozenEnsemble(_EncodingTeacher):
    """The ensemble of all heads of a fixed model: by default the student before the first step.

    Args:
        model: Another M3 model with the student's tokenizer: a model, or a name for `M3Encoder.from_pretrained`.

    Raises:
        ValueError: At the start, if it has another tokenizer.
    """

    def __init__(self, model: M3Model | str | Path | None = None) -> None:
        self._given = model

    def start(self, model: M3Model, options: LossOptions) -> None:
        """Copies the student, unless a model was given."""
        super().start(model, options)
        if isinstance(self._given, (str, Path)):
            self.teacher = M3Model(M3Encoder.from_pretrained(self._given).checkpoint)
        else:
            self.teacher = self._given or self._copied(model)
        _check_tokenizers(self.teacher, model)
        self.teacher.__dict__.pop("forward", None)  # accelerate's, of an earlier run, would call the student
        self.teacher.to(next(model.parameters()).device).requires_grad_(False).eval()

    def encode(self, chunk: TokenBatch) -> Representations | None:
        """Returns the frozen model's representations.

        Raises:
            ValueError: A text is longer than it can read.
        """
        longest = self.teacher.checkpoint.max_length
        if chunk.mask.shape[1] > longest:
            got = f"got one of {chunk.mask.shape[1]}; lower passage_max_length or query_max_length"
            msg = f"the teacher reads texts of at most {longest} tokens, {got}"
            raise ValueError(msg)
        return self.teacher.represent(chunk)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the frozen model, unless it was given: a resumed run starts from a student that has moved on."""
        return {} if self._given else _changing(self.teacher, self.model)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores the frozen model."""
        self.teacher.load_state_dict(dict(state), strict=False)

    def _copied(self, model: M3Model) -> M3Model:
        copied = copy.deepcopy(model)
        copied.heads = HEADS  # before the first step they are all good, those that are not trained too
        return copied


class MovingAverage(FrozenEnsemble):
    """The ensemble of an exponential moving average of the student (mean teacher, arXiv 1703.01780).

    Args:
        decay: Share of the average that stays at each step.

    Raises:
        ValueError: The decay is below 0, or not below 1.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            msg = f"decay must be at least 0 and below 1, got {decay}"
            raise ValueError(msg)
        super().__init__()
        self._decay = decay

    def _copied(self, model: M3Model) -> M3Model:
        return copy.deepcopy(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the student; over the first steps it is their plain mean."""
        decay = min(self._decay, step / (step + 1))
        averages = dict(self.teacher.named_parameters())
        for name, parameter in self.model.trainable_state().items():
            averages[name].lerp_(parameter, 1 - decay)


class NoisyEnsemble(_EncodingTeacher):
    """The ensemble of a second pass of the student with other dropout (noisy self-distillation, arXiv 2009.07032).

    Raises:
        ValueError: At the start, if the model has no dropout: both passes would be the same.
    """

    def start(self, model: M3Model, options: LossOptions) -> None:
        """Checks that there is dropout."""
        super().start(model, options)
        if not model.dropout:
            msg = "NoisyEnsemble needs an encoder that is trained with dropout, this one has none; use LiveEnsemble"
            raise ValueError(msg)

    def encode(self, chunk: TokenBatch) -> Representations | None:
        """Returns the student's representations under fresh dropout."""
        return self.model.represent(chunk)


def _check_tokenizers(teacher: M3Model, student: M3Model) -> None:
    """Refuses a teacher that reads other token ids."""
    folders = teacher.checkpoint.folder, student.checkpoint.folder
    if folders[0] != folders[1]:
        vocabularies = [load_tokenizer(folder)[0].get_vocab() for folder in folders]
        if vocabularies[0] != vocabularies[1]:
            sizes = " and ".join(f"{len(vocabulary):,}" for vocabulary in vocabularies)
            msg = f"a teacher must have the student's tokenizer, got {folders[0]} for {folders[1]} ({sizes} tokens)"
            raise ValueError(msg)


def _changing(copied: M3Model, student: M3Model) -> dict[str, Tensor]:
    """Returns the copied parameters that training changes in the student."""
    copies = dict(copied.named_parameters())
    return {name: copies[name].detach() for name in student.trainable_state()}
