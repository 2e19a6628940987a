"""Progress of training on stderr: a bar on a terminal, a line for each log in a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from math import ceil
from typing import Any

if find_spec("rich") is None:
    msg = 'the progress of training is shown by rich: pip install "m3plugins[cli]"'
    raise ImportError(msg)

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from m3plugins.encoding.backends.torch import without_bars

_NOT_SHOWN = {"epoch", "grad_norm", "total_flos"}


@contextmanager
def shown(trainer: Trainer, console: Console | None = None) -> Iterator[None]:
    """Shows training inside the block by `TrainingProgress` instead of transformers' own bar or printing.

    Example:
        with shown(trainer):
            trainer.train()

    Args:
        trainer: Any trainer of transformers.
        console: Console to write to; None is stderr.
    """
    before = [trainer.pop_callback(kind) for kind in (ProgressCallback, PrinterCallback)]
    progress = TrainingProgress(console)
    trainer.add_callback(progress)  # the last, so that it sees what others add to the logs
    try:
        with without_bars():
            yield
    finally:
        progress.close()
        trainer.remove_callback(progress)
        for callback in filter(None, before):
            trainer.add_callback(callback)


class TrainingProgress(TrainerCallback):
    """Shows steps, the loss and its terms, queries per second, the time left, and every evaluation.

    Queries per second are those of the training steps since the last log; a batch counts as an epoch's mean.

    Args:
        console: Console to write to; None is stderr. A terminal gets a bar, a file a line for each log.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: _Bar | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        loader = kwargs["train_dataloader"]
        self._queries_per_step = len(loader.dataset) / max(1, ceil(len(loader) / args.gradient_accumulation_steps))
        self._first, self._began = state.global_step, time.monotonic()
        self._restart(state.global_step)
        if state.is_world_process_zero and self._console.is_terminal:
            self._bar = _Bar(self._console, state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar; the last step is logged whatever `logging_steps` is."""
        control.should_log |= state.global_step >= state.max_steps
        if self._bar:
            self._bar.move(state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the losses, or the metrics of an evaluation."""
        logs: Mapping[str, float] = kwargs["logs"]
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        said = ", ".join(f"{name} {value:.4g}" for name, value in logs.items() if name not in _NOT_SHOWN)
        if "loss" in logs:
            seconds = max(1e-9, time.monotonic() - self._since)
            rate = f"{(state.global_step - self._step) * self._queries_per_step / seconds:.3g} queries/s"
            self._restart(state.global_step)
            if self._bar:
                self._bar.tell(rate, said)
            else:
                self._print(state, f"{said}; {rate}, {self._left(state)} left")
        else:
            self._print(state, said)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves the evaluation out of the rate."""
        self._restart(state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves the checkpoint out of the rate."""
        self._restart(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leaves the bar as it is."""
        self.close()

    def close(self) -> None:
        """Releases the terminal, also after training ended in an error."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _restart(self, step: int) -> None:
        self._step, self._since = step, time.monotonic()

    def _left(self, state: TrainerState) -> timedelta:
        seconds_per_step = (time.monotonic() - self._began) / max(1, state.global_step - self._first)
        return timedelta(seconds=round((state.max_steps - state.global_step) * seconds_per_step))

    def _print(self, state: TrainerState, said: str) -> None:
        line = f"step {state.global_step}/{state.max_steps}: {said}" if state.max_steps else said
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class _Bar(Progress):
    """A bar with a line of losses below."""

    def __init__(self, console: Console, step: int, steps: int) -> None:
        self._said = ""
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        super().__init__(*columns, console=console)
        self._task = self.add_task("training", total=steps, completed=step, rate="")
        self.start()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self._said)

    def move(self, step: int) -> None:
        """Moves the bar to a step."""
        self.update(self._task, completed=step)

    def tell(self, rate: str, said: str) -> None:
        """Shows the figures of a log."""
        self._said = said
        self.update(self._task, rate=rate)
