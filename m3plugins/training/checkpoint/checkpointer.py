"""Saving and restoring a training run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.checkpoint import folders, manifest
from m3plugins.training.checkpoint.run_state import (
    RunState,
    Unlogged,
    check_changes,
    load_temperatures,
    load_weights,
    settings_of,
)
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.processes import wait_for_all
from m3plugins.training.teachers.teacher import Teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpointer:
    """Saves a run to checkpoints that are whole or not used, and restores it from them.

    Every process has one and calls it at the same points; only one whose `args.should_save` is true writes.

    Attributes:
        args: Settings of the run.
        model: Model in training.
        teacher: Teacher of the run, whose state is part of a checkpoint.
        temperatures: Logarithms of the temperatures, by loss.
    """

    args: SelfDistillationArguments
    model: M3Model
    teacher: Teacher
    temperatures: Mapping[str, nn.Parameter]

    def save_model(self, folder: Path) -> None:
        """Writes the model as a standard M3 checkpoint, all of its files or none."""
        if self.args.should_save:
            self.model.save(folder)

    @contextmanager
    def sealed(self, folder: Path) -> Iterator[None]:
        """Seals the checkpoint that the block writes; without its manifest a checkpoint is never used.

        Raises:
            OSError: The checkpoint could not be saved; nothing is left of it.
        """
        saves, limit = self.args.should_save, self.args.save_total_limit
        if saves:
            folders.discard(folder)
        wait_for_all()
        self.args.save_total_limit = None  # older ones go when this one is sealed, by `prune`
        try:
            with folders.written(folder):
                yield
                wait_for_all()
                if saves:
                    manifest.seal(folder)
        finally:
            self.args.save_total_limit = limit

    def prune(self, output: Path, *, best: str | None) -> None:
        """Removes the oldest checkpoints over `save_total_limit`; the newest and the best stay."""
        if self.args.should_save and self.args.save_total_limit:
            folders.prune(output, self.args.save_total_limit, best=best)

    def save_run(self, folder: Path, dataset: M3Dataset, unlogged: Unlogged, chunk_tokens: int | None) -> None:
        """Adds to a checkpoint the state that transformers' trainer does not save."""
        if self.args.should_save:
            RunState(
                settings=settings_of(self.args, dataset),
                chunk_tokens=chunk_tokens,
                unlogged=unlogged,
                temperatures=self.temperatures,
                teacher=self.teacher.state_dict(),
                adapters=self.model.trainable_state() if self.args.train_encoder == "lora" else {},
            ).save(folder)

    def find(self, resume_from: str | bool | None) -> Path | None:
        """Returns the verified checkpoint to resume from: the one named, or for True the newest whole one, if any.

        Raises:
            CheckpointError: The checkpoint is incomplete or damaged.
        """
        if resume_from is True:
            return folders.last_checkpoint(Path(self.args.output_dir))
        if not resume_from:
            return None
        manifest.verify(Path(resume_from))
        return Path(resume_from)

    def restore(self, folder: Path, dataset: M3Dataset) -> RunState:
        """Restores the teacher and the temperatures; returns the whole state that transformers' trainer does not know.

        Raises:
            CheckpointError: The run would train other weights, or the checkpoint has no optimizer's state.
        """
        run = RunState.load(folder)
        check_changes(run.settings, settings_of(self.args, dataset))
        if not (folder / "optimizer.pt").is_file():
            msg = f"{folder} has no optimizer's state (save_only_model); start a new run from it as the model"
            raise manifest.CheckpointError(msg)
        if run.teacher:
            self.teacher.load_state_dict(run.teacher)
        self._set_temperatures(run.temperatures)
        return run

    def load_weights(self, folder: Path) -> None:
        """Loads the weights of a checkpoint that was verified."""
        load_weights(self.model, folder)

    def load_best(self, folder: Path) -> None:
        """Loads the weights and the temperatures of the best checkpoint.

        Raises:
            CheckpointError: The checkpoint is incomplete or damaged.
        """
        logger.info("the best model is that of %s", folder)
        manifest.verify(folder)
        self.load_weights(folder)
        self._set_temperatures(load_temperatures(folder))

    def _set_temperatures(self, logarithms: Mapping[str, Tensor]) -> None:
        for name, value in logarithms.items():
            self.temperatures[name].data.copy_(value)
