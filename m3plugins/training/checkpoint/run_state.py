"""What a run needs to go on, beside the model and what transformers' trainer saves."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.checkpoint.manifest import CheckpointError
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.model.m3_model import M3Model

logger = logging.getLogger(__name__)

_RUN = "run.json"
_ADAPTERS, _TEACHER, _TEMPERATURES = "adapters.safetensors", "teacher.safetensors", "temperatures.safetensors"


@dataclass(frozen=True)
class Unlogged:
    """What was trained since the last log, so that the next one is what it would have been.

    Attributes:
        since: The step of the last log.
        loss: The sum of the losses since, the mean of the processes.
        terms: Of every term its sum over the batches of all processes, and their number.
    """

    since: int
    loss: float
    terms: Mapping[str, list[float]]


@dataclass(frozen=True)
class RunState:
    """What a checkpoint keeps of a run.

    Attributes:
        settings: As `settings_of` gives them.
        chunk_tokens: As given or measured.
        unlogged: What no log has told yet.
        temperatures: Their logarithms.
        teacher: What the teacher gave to keep.
        adapters: What LoRA trains: the model is saved with it merged.
    """

    settings: Mapping[str, Any]
    chunk_tokens: int | None
    unlogged: Unlogged
    temperatures: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    adapters: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Adds it to a checkpoint."""
        tensors = {_TEMPERATURES: self.temperatures, _TEACHER: self.teacher, _ADAPTERS: self.adapters}
        for name, state in tensors.items():
            if state:
                save_file({key: tensor.detach().contiguous() for key, tensor in state.items()}, folder / name)
        run = {"chunk_tokens": self.chunk_tokens, "arguments": self.settings, "unlogged": asdict(self.unlogged)}
        (folder / _RUN).write_text(json.dumps(run, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Reads it from a checkpoint."""
        run = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        return cls(
            settings=run["arguments"],
            chunk_tokens=run["chunk_tokens"],
            unlogged=Unlogged(**run["unlogged"]),
            temperatures=load_temperatures(folder),
            teacher=_tensors(folder / _TEACHER),
            adapters=_tensors(folder / _ADAPTERS),
        )


def settings_of(args: SelfDistillationArguments, dataset: M3Dataset) -> dict[str, Any]:
    """What a run and its resumption should have in common: the settings, the data and the number of processes."""
    settings: dict[str, Any] = json.loads(args.to_json_string())
    digest = hashlib.sha256(dataset.sizes.tobytes()).hexdigest()
    data = f"{len(dataset)} examples, sizes {digest[:16]}"
    return settings | {"train_dataset": data, "train_digest": dataset.digest, "processes": args.world_size}


def check_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warns of settings of a resumed run that are not those it was started with.

    Raises:
        CheckpointError: One of them decides which weights are trained.
    """
    ignored = {"output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "save_total_limit"}
    changed = sorted(name for name in before if name not in ignored and before[name] != now.get(name))
    details = ", ".join(f"{name} {before[name]!r} -> {now.get(name)!r}" for name in changed)
    decisive = {"heads", "train_encoder", "learn_temperature"}
    decisive |= {"lora_rank", "lora_alpha"} if before.get("train_encoder") == "lora" else set()
    if decisive & set(changed):
        msg = f"a run with other weights cannot be resumed: {details}; resume as before, or start from the saved model"
        raise CheckpointError(msg)
    if changed:
        logger.warning("the resumed run has other settings than before: %s", details)


def load_weights(model: M3Model, folder: Path) -> None:
    """Puts a checkpoint's weights into a model that is trained as the one that was saved."""
    if adapters := _tensors(folder / _ADAPTERS):
        model.load_state_dict(adapters, strict=False)
    else:
        model.load_state_dict(M3Model(Checkpoint(folder), heads=model.heads).state_dict())


def load_temperatures(folder: Path) -> Mapping[str, Tensor]:
    """The logarithms of the temperatures, as a checkpoint has them."""
    return _tensors(folder / _TEMPERATURES)


def _tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.is_file() else {}
