"""Tiny runs of the trainer, in this process and in ones that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.training import (
    Batch,
    LiveEnsemble,
    LossOptions,
    M3Dataset,
    M3Model,
    MovingAverage,
    SelfDistillationArguments,
    SelfDistillationTrainer,
)
from m3plugins.training.data.collator import Draws, M3Collator
from m3plugins.training.data.sampling import Draw
from tests.tiny import SENTENCES, save_checkpoint

# A child is forked, with all its imports, from a process that has no threads.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "m3plugins.training.trainer",
        "peft.tuners.lora",
        "transformers.trainer",
        "transformers.models.xlm_roberta.modeling_xlm_roberta",
        "tests.core.training.runs",
    ]
)

SPECIAL_IDS = (0, 1, 2, 3)
OPTIONS = LossOptions(special_ids=SPECIAL_IDS, temperature=0.5)
"""So warm that no head of a random model is so sure of itself that its gradient drowns in rounding errors."""


class OnFirstProcess(LiveEnsemble):
    """Has nothing to teach on the others."""

    def scores(self, *args: Any) -> Tensor | None:
        return super().scores(*args) if os.environ["RANK"] == "0" else None


TEACHERS: dict[str, Callable[[], Any]] = {
    "moving average": lambda: MovingAverage(0.9),
    "on the first process": OnFirstProcess,
}


# --- data and models


def tiny_checkpoint(folder: Path, dropout: float = 0.0) -> Path:
    """An M3 checkpoint of 14,000 parameters that reads 64 tokens."""
    save_checkpoint(folder, hidden_size=16, layers=2, heads=2, intermediate_size=32, max_length=64)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def examples(*, scores: bool = False) -> list[dict[str, Any]]:
    """A dozen queries in as many scripts, one positive and two negatives each."""
    rows: list[dict[str, Any]] = []
    for number, sentence in enumerate(SENTENCES):
        negatives = [SENTENCES[(number + 3) % 12] + " no.", SENTENCES[(number + 5) % 12] + " never."]
        rows.append({"query": sentence[4:20] + "?", "pos": [sentence], "neg": negatives})
        if scores:
            rows[-1] |= {"pos_scores": [2.0 + number / 10], "neg_scores": [0.5, -1.0 - number / 10]}
    return rows


def batch(checkpoint: Path, queries: int = 6, *, negatives: int = 2, scores: bool = False) -> Batch:
    """What a step reads, of texts of different lengths."""
    draws = Draws(M3Dataset.from_examples(examples(scores=scores)), negatives=negatives)
    collator = M3Collator(Checkpoint(checkpoint), query_max_length=16, passage_max_length=40, with_scores=scores)
    return collator([draws[Draw(0, row)] for row in range(queries)])


def double_model(checkpoint: Path, **kwargs: Any) -> M3Model:
    """In float64, so that sums in another order differ by less than anything that is wrong."""
    return M3Model(Checkpoint(checkpoint), **kwargs).double().train()


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Each parameter's relative error is within the tolerance, and none of the gradients is 0.

    But that of the keys' bias: it adds one number to all the scores that a softmax is taken of, so its gradient is 0.
    """
    assert found.keys() == expected.keys() and expected
    scale = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        difference, norm = float((found[name] - gradient).norm()), float(gradient.norm())
        if name.endswith("key.bias"):
            assert difference <= 1e-9 * scale, name
        else:
            assert norm > 1e-6 * scale and difference <= tolerance * norm, (name, norm, difference)


def settings(output: Path, **changes: Any) -> SelfDistillationArguments:
    """Of 12 examples in steps of 4: an epoch is 3 steps."""
    defaults: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "negatives": 1,
        "query_max_length": 16,
        "passage_max_length": 40,
        "chunk_tokens": 4096,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return SelfDistillationArguments(**{**defaults, **changes})


def trainer(
    checkpoint: Path, output: Path, *, data: M3Dataset | None = None, scores: bool = False, **kwargs: Any
) -> SelfDistillationTrainer:
    """A trainer of `examples()`; what is none of its own arguments is a setting."""
    own = {name: kwargs.pop(name) for name in ("teacher", "callbacks", "eval_dataset") if name in kwargs}
    data = data or M3Dataset.from_examples(examples(scores=scores))
    return SelfDistillationTrainer(checkpoint, settings(output, **kwargs), data, **own)


def curve(trained: SelfDistillationTrainer) -> list[dict[str, float]]:
    """Everything that was logged, but the summary at the end and how long things took."""
    logged = [entry for entry in trained.state.log_history if "train_runtime" not in entry]
    return [{name: value for name, value in entry.items() if "per_second" not in name} for entry in logged]


def weights(trained: SelfDistillationTrainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trained.model.state_dict().items()}


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


# --- processes


class Killed(Exception):
    """The process was killed."""


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process of its own.

    Raises:
        Killed: By SIGKILL, before it returned.
    """
    return in_processes(function, [args])[0]


def in_world(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function returns in each of some processes that accelerate and torch.distributed take for a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    environments = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return in_processes(_with_environment, [(environment, function, *args) for environment in environments])


def in_processes(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], seconds: float = 120) -> list[Any]:
    started = []
    for args in calls:
        ours, theirs = processes.Pipe()
        child = processes.Process(target=_answer, args=(theirs, function, *args))
        child.start()
        theirs.close()
        started.append((child, ours))
    answers = []
    try:
        for child, answer in started:
            ready = wait([answer, child.sentinel], seconds)
            if not ready:
                raise TimeoutError(f"{function.__name__} took more than {seconds} s")
            try:
                answers.append(pickle.loads(answer.recv_bytes() if answer.poll() else b""))
            except EOFError:  # it died; its own children may still hold the pipe
                child.join()
                raise Killed if child.exitcode == -signal.SIGKILL else RuntimeError(child.exitcode) from None
    finally:
        for child, _ in started:
            child.join(0 if sys.exc_info()[0] else 20)
            child.kill()
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _answer(answer: Connection, function: Callable[..., Any], *args: Any) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # or loaders' workers would be the server's, and outlive this
    try:
        result = function(*args)
    except Exception as err:  # the parent raises it
        err.__cause__ = None
        result = err
    answer.send_bytes(pickle.dumps(result))


def _with_environment(environment: dict[str, str], function: Callable[..., Any], *args: Any) -> Any:
    os.environ.update(environment)
    try:
        return function(*args)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


# --- runs in processes


@dataclass(frozen=True)
class Run:
    """What to train.

    Attributes:
        checkpoint: From here.
        output: To here.
        settings: Beside those of `settings()`.
        teacher: A name in TEACHERS.
        rows: In place of `examples()`.
    """

    checkpoint: Path
    output: Path
    settings: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    rows: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    curve: list[dict[str, float]]
    weights: dict[str, Tensor]
    temperatures: dict[str, float]
    teacher: dict[str, Tensor]


def perform(run: Run, kill_at: str | None = None, file_bytes: int | None = None) -> Trained:
    """Trains, from the last checkpoint there is; dies at a point, or where files may not grow any more."""
    if kill_at is not None:
        die_at(kill_at)
    callbacks = [KillInStep(int(kill_at.split()[-1]))] if kill_at and kill_at.startswith("step") else []
    teacher = TEACHERS[run.teacher]() if run.teacher else None
    evaluated = M3Dataset.from_examples(examples()[:5]) if "eval_strategy" in run.settings else None
    data = M3Dataset.from_examples(run.rows) if run.rows else None
    own = {"data": data, "teacher": teacher, "callbacks": callbacks, "eval_dataset": evaluated}
    trained = trainer(run.checkpoint, run.output, **own, **run.settings)
    if file_bytes is not None:
        for output in (1, 2):  # pytest's are files too
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    trained.train(resume_from_checkpoint=True)
    return Trained(
        curve=curve(trained),
        weights=weights(trained),
        temperatures={name: float(value) for name, value in trained.temperatures.items()},
        teacher={name: tensor.clone() for name, tensor in trained.teacher.state_dict().items()},
    )


class KillInStep(TrainerCallback):
    """Kills its process between the backward pass of a step and its change of the weights."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self._step:
            kill()


def die_at(point: str) -> None:
    """Kills this process when it is about to open or rename a file: "open NAME in FOLDER", "rename NAME in FOLDER"."""
    if point.startswith("step"):
        return
    verb, name, _, folder = point.split()
    event = {"open": "open", "rename": "os.rename"}[verb]

    def watch(happened: str, args: tuple[Any, ...]) -> None:
        if happened == event and isinstance(args[0], (str, os.PathLike)):
            path = Path(args[0])
            writes = event != "open" or (isinstance(args[1], str) and "w" in args[1])
            if path.name == name and any(folder in part for part in path.parts[-3:-1]) and writes:
                kill()

    sys.addaudithook(watch)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
