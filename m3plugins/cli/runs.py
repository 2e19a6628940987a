"""The folder of a training run: the model, and below it the checkpoints from which the run continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from m3plugins.cli.errors import CallError, Interrupted
from m3plugins.cli.printing import print_json, say
from m3plugins.indexing.corpus import parse_object

if TYPE_CHECKING:
    from m3plugins.training import SelfDistillationTrainer

CHECKPOINTS = "checkpoints"
_CALL = "call.json"


def check_output(output: Path, call: Mapping[str, Any], *, resume: bool) -> None:
    """Refuses to overwrite anything, and to resume a run that another call began."""
    if output.exists() and not output.is_dir():
        msg = f"--output must be a folder, {output} is a file; name another"
        raise CallError(msg)
    begun = output / CHECKPOINTS / _CALL
    if resume:
        if not begun.is_file():
            msg = f"there is no run in {output} to go on with; leave out --resume to begin one"
            raise CallError(msg)
        for name, before in _noted(begun).items():
            if before != call.get(name):
                msg = f"the run in {output} was begun with {name} {before}, not {call.get(name)}; name another --output"
                raise CallError(msg)
    elif any(path.is_file() and path != begun for path in output.rglob("*")):
        reason = "holds a run; go on with it by --resume, or" if begun.is_file() else "is not empty;"
        msg = f"{output} {reason} name another --output"
        raise CallError(msg)


def _noted(begun: Path) -> dict[str, Any]:
    try:
        return parse_object(begun.read_bytes())
    except ValueError as err:
        msg = f"{begun} is damaged: {err}; begin the run anew, with another --output"
        raise CallError(msg) from err


def note_call(output: Path, call: Mapping[str, Any]) -> None:
    """Records the call that began the run."""
    (output / CHECKPOINTS / _CALL).write_text(json.dumps(call, indent=2), encoding="utf-8")


def run(trainer: SelfDistillationTrainer, output: Path, *, resume: bool, as_json: bool) -> int:
    """Trains, saves and reports."""
    from m3plugins.training.checkpoint.folders import newest
    from m3plugins.training.progress import shown

    before: dict[str, float] = {}
    try:
        with shown(trainer):
            if trainer.eval_dataset is not None and not resume:
                before = trainer.evaluate()
            seconds = trainer.train(resume_from_checkpoint=resume).metrics["train_runtime"]
            trainer.save_model(str(output))
    except KeyboardInterrupt:
        if trainer.is_world_process_zero():
            kept = newest(output / CHECKPOINTS)
            msg = f"interrupted; the same call with --resume goes on from {kept or 'the start'}"
            raise Interrupted(msg) from None
        raise
    if trainer.is_world_process_zero():
        _report(trainer, output, before, seconds=seconds, as_json=as_json)
    return 0


def _report(
    trainer: SelfDistillationTrainer, output: Path, before: Mapping[str, float], *, seconds: float, as_json: bool
) -> None:
    state = trainer.state
    losses = next((_named(logs, "loss") for logs in reversed(state.log_history) if "loss" in logs), {})
    evaluations = [logs for logs in state.log_history if any(name.startswith("eval_") for name in logs)]
    best = next((_named(logs, "eval_") for logs in evaluations if logs["step"] == state.best_global_step), {})
    if as_json:
        found = {"output": str(output), "steps": state.global_step, "seconds": round(seconds, 1), "losses": losses}
        dev = {"best_step": state.best_global_step, "before": _named(before, "eval_"), "after": best}
        print_json({**found, "dev": dev if best else None})
        return
    terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    say(f"{output}: {state.global_step} steps in {seconds:.1f} s; {terms}")
    if best:
        table = Table(f"step {state.best_global_step}", "before", "after", box=None, pad_edge=False)
        for name, value in best.items():
            table.add_row(name, f"{before[name]:.4f}" if name in before else "", f"{value:.4f}")
        Console().print(table)
    say(f'next: m3 evaluate FOLDER --model {output}, or M3Encoder.from_pretrained("{output}")')


def _named(logs: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name: value for name, value in logs.items() if name.startswith(prefix)}
