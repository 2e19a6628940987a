"""How training is shown."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from m3plugins.training import M3Dataset, SelfDistillationArguments, SelfDistillationTrainer
from m3plugins.training.callbacks import Drift
from m3plugins.training.progress import TrainingProgress, shown
from tests.tiny import SENTENCES


def trainer_of(checkpoint: Path, folder: Path, *callbacks: TrainerCallback) -> SelfDistillationTrainer:
    rows = [{"query": text[-12:], "pos": [text]} for text in SENTENCES]
    args = SelfDistillationArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=2,
        negatives=0,
        logging_steps=1,
        chunk_tokens=4096,
        save_steps=1,
        disable_tqdm=True,
    )
    return SelfDistillationTrainer(checkpoint, args, M3Dataset.from_examples(rows), callbacks=callbacks)


@pytest.mark.parametrize("terminal", [False, True])
def test_losses_rate_and_rest_are_told_on_the_console_alone(
    checkpoint: Path, tmp_path: Path, terminal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=2000)
    trainer = trainer_of(checkpoint, tmp_path, Drift(SENTENCES, every=1))
    capsys.readouterr()
    with shown(trainer, console):
        trainer.train()
    said = console.file.getvalue()
    for name in ("loss", "loss_dense", "loss_sparse", "loss_ensemble", "loss_multi_vector_distillation", "drift_dense"):
        assert re.search(rf"\b{name} \d", said)
    assert "queries/s" in said and ("2/2" in said)
    assert capsys.readouterr() == ("", "")


def test_where_nobody_watches_there_is_a_line_for_each_log(checkpoint: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with shown(trainer := trainer_of(checkpoint, tmp_path), console):
        trainer.train()
    assert [line.split(":")[0] for line in console.file.getvalue().splitlines()] == ["step 1/2", "step 2/2"]


def test_afterwards_the_trainer_shows_itself_as_before(checkpoint: Path, tmp_path: Path) -> None:
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            raise KeyboardInterrupt

    console = Console(file=io.StringIO(), force_terminal=True)
    trainer = trainer_of(checkpoint, tmp_path, Interrupt())
    with pytest.raises(KeyboardInterrupt), shown(trainer, console):
        trainer.train()
    kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
    assert PrinterCallback in kinds and TrainingProgress not in kinds
    assert console.file.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in console.file.getvalue()  # the cursor is back


def test_warnings_of_transformers_are_not_hidden(checkpoint: Path, tmp_path: Path) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with shown(trainer_of(checkpoint, tmp_path)):
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (before[0], False)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
