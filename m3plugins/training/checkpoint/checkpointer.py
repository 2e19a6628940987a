"""What a training run leaves on the disk, and how it goes on from there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from transformers import Trainer

from m3plugins.training import checkpointing
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.checkpoint.run_state import RunState, Unlogged, load_temperatures, load_weights, settings_of
from m3plugins.training.teachers.ensembles import Teacher
from m3plugins.training.loss_log import Terms

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """A `Trainer` of transformers whose checkpoints are whole or none, and hold all that the run goes on with.

    Attributes:
        args: The settings.
        model: What is trained.
        teacher: Whose state is a checkpoint's as well.
        temperatures: Logarithms of the temperatures, by loss.
        chunk_tokens: Padded tokens of a pass; None until they are measured.
    """

    args: SelfDistillationArguments
    model: M3Model
    teacher: Teacher
    temperatures: dict[str, nn.Parameter]
    chunk_tokens: int | None
    _terms: Terms
    _unlogged: Unlogged | None = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            with checkpointing.staged(folder) as building:
                self.model.save(building)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves everything, then seals it: what has no manifest was cut off and is never resumed from."""
        output, limit = Path(self._get_output_dir(trial)), self.args.save_total_limit
        folder = output / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            checkpointing.discard(folder)
        self._wait()
        self.args.save_total_limit = None  # older ones go when this one is sealed
        try:
            with checkpointing.written(folder):
                super()._save_checkpoint(model, trial)
                state = self._run_state()
                if self.args.should_save:
                    state.save(folder)
                self._wait()
                if self.args.should_save:
                    checkpointing.seal(folder)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit:
            checkpointing.prune(output, limit, best=self.state.best_model_checkpoint)

    def _run_state(self) -> RunState:
        unlogged = Unlogged(
            since=self._globalstep_last_logged,
            loss=float(self._mean_of_processes(self._tr_loss.clone())),
            terms=self._terms.totals(),
        )
        return RunState(
            settings=settings_of(self.args, self.train_dataset),
            chunk_tokens=self.chunk_tokens,
            unlogged=unlogged,
            temperatures=self.temperatures,
            teacher=self.teacher.state_dict(),
            adapters=self.model.trainable_state() if self.args.train_encoder == "lora" else {},
        )

    def _restore(self, folder: Path) -> None:
        """What transformers' trainer does not know of; the log is taken up when it has loaded the rest."""
        run = RunState.load(folder)
        checkpointing.check_changes(run.settings, settings_of(self.args, self.train_dataset))
        if not (folder / "optimizer.pt").is_file():
            msg = f"{folder} has no optimizer's state (save_only_model); start a new run from it as the model"
            raise checkpointing.CheckpointError(msg)
        if run.teacher:
            self.teacher.load_state_dict(run.teacher)
        self._set_temperatures(run.temperatures)
        self.chunk_tokens = self.chunk_tokens or run.chunk_tokens
        self._unlogged = run.unlogged

    def _take_up_log(self) -> None:
        self._terms.clear()
        if self._unlogged is not None:
            self._globalstep_last_logged = self._unlogged.since
            self._tr_loss += self._unlogged.loss
            if self.args.process_index == 0:  # they are of all processes
                self._terms.take_up(self._unlogged.terms)
            self._unlogged = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))  # `train` has verified it

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        logger.info("the best model is that of %s", best)
        checkpointing.verify(best)
        load_weights(self.model, best)
        self._set_temperatures(load_temperatures(best))

    def _set_temperatures(self, logarithms: Mapping[str, Tensor]) -> None:
        for name, value in logarithms.items():
            self.temperatures[name].data.copy_(value)

    def _wait(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _mean_of_processes(self, values: Tensor) -> Tensor:
        if self.args.world_size > 1:
            dist.all_reduce(values)
        return values / float(self.args.world_size)
