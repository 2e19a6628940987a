"""State of a run that neither the model's files nor those of transformers' trainer hold."""

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
    """Losses since the last log, which the next log of a resumed run counts too.

    Attributes:
        since: Step of the last log.
        loss: Sum of the losses since, mean over the processes.
        terms: Sum of every term over the batches of all processes, and their number.
    """

    since: int
    loss: float
    terms: Mapping[str, list[float]]


@dataclass(frozen=True)
class RunState:
    """State of a run in a checkpoint.

    Attributes:
        settings: Settings, as `settings_of` returns them.
        chunk_tokens: Padded tokens of a pass, given or measured.
        unlogged: Losses that no log has reported yet.
        temperatures: Logarithms of the temperatures, by loss.
        teacher: State of the teacher.
        adapters: LoRA's matrices; the model is saved with them merged.
    """

    settings: Mapping[str, Any]
    chunk_tokens: int | None
    unlogged: Unlogged
    temperatures: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    adapters: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Adds the state to a checkpoint."""
        tensors = {_TEMPERATURES: self.temperatures, _TEACHER: self.teacher, _ADAPTERS: self.adapters}
        for name, state in tensors.items():
            if state:
                save_file({key: tensor.detach().contiguous() for key, tensor in state.items()}, folder / name)
        run = {"chunk_tokens": self.chunk_tokens, "arguments": self.settings, "unlogged": asdict(self.unlogged)}
        (folder / _RUN).write_text(json.dumps(run, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Reads the state of a checkpoint."""
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
    """Returns what a run and its resumption should share: settings, data and the number of processes."""
    settings: dict[str, Any] = json.loads(args.to_json_string())
    digest = hashlib.sha256(dataset.columns.sizes.tobytes()).hexdigest()
    data = f"{len(dataset)} examples, sizes {digest[:16]}"
    return settings | {"train_dataset": data, "train_digest": dataset.digest, "processes": args.world_size}


def check_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warns of settings that a resumed run does not share with its start.

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
    """Loads a checkpoint's weights into a model that is trained like the one that was saved."""
    if adapters := _tensors(folder / _ADAPTERS):
        model.load_state_dict(adapters, strict=False)
    else:
        model.load_state_dict(M3Model(Checkpoint(folder), heads=model.heads).state_dict())


def load_temperatures(folder: Path) -> Mapping[str, Tensor]:
    """Reads the logarithms of the temperatures from a checkpoint."""
    return _tensors(folder / _TEMPERATURES)


def _tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.is_file() else {}
