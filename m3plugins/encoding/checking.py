"""Checks of a checkpoint's files: what they are, and what the configuration asks for, before anything is allocated."""

from __future__ import annotations

import hashlib
import json
import pickle
import stat
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T", dict[str, Any], list[Any])

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a file's tensors, by name."""

JSON_BYTES, VOCABULARY_BYTES = 16 << 20, 512 << 20
"""Bytes of the largest file of settings, and of the largest vocabulary, that are read."""

_WEIGHTS = (".safetensors", ".bin", ".pt")

_WIDTHS = ("hidden_size", "intermediate_size", "vocab_size", "type_vocab_size", "num_attention_heads", "num_labels")
_MAY_BE_ZERO = ("type_vocab_size", "num_labels")


def check_files(folder: Path) -> None:
    """Refuses a folder with pipes, devices or sockets, which a reader would wait for, or with a boundless file.

    Raises:
        ValueError: If it has one.
    """
    for path in sorted([*folder.glob("*"), *folder.glob("*_*/*")]):
        try:
            status = path.stat()
        except OSError:  # a link that leads nowhere, which is no file to any reader
            continue
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            msg = f"a checkpoint folder must hold files and folders only, {path} is neither; remove it"
            raise ValueError(msg)
        if path.suffix in _WEIGHTS and stat.S_ISDIR(status.st_mode):
            msg = f"{path} must be a file, it is a folder; download the checkpoint again"
            raise ValueError(msg)
        if path.suffix in (".json", ".txt", ".model") and status.st_size > VOCABULARY_BYTES:
            msg = f"{path} must have at most {VOCABULARY_BYTES >> 20} MiB, it has {status.st_size >> 20}; remove it"
            raise ValueError(msg)


def read_json(path: Path, kind: type[T], most: int = JSON_BYTES) -> T:
    """What a JSON file holds.

    Args:
        path: The file.
        kind: What it must hold, `dict` or `list`.
        most: Bytes that it may have.

    Raises:
        ValueError: If it is too large, no JSON, or holds something else.
    """
    if (size := path.stat().st_size) > most:
        msg = f"{path} must have at most {most >> 20} MiB, it has {size >> 20}; remove it"
        raise ValueError(msg)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        msg = f"{path} must be JSON, it is not ({err}); download the checkpoint again"
        raise ValueError(msg) from err
    if not isinstance(content, kind):
        wanted = "an object" if kind is dict else "a list"
        msg = f"{path} must hold {wanted}, it holds {type(content).__name__}; download the checkpoint again"
        raise ValueError(msg)
    return content


def safetensors_shapes(path: Path) -> Shapes:
    """The shapes of a safetensors file, from its header: no tensor is read.

    Raises:
        ValueError: If the file is damaged.
    """
    from safetensors import safe_open

    with readable(path), safe_open(path, framework="np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def check_config(config: Mapping[str, Any], shapes: Collection[tuple[int, ...]], where: Path) -> None:
    """Refuses a configuration whose sizes are none, or beyond the weights: to build it could take all memory.

    Args:
        config: The encoder's configuration; what is nested in it counts too.
        shapes: The shapes of all the encoder's tensors.
        where: The configuration's file, for the message.

    Raises:
        ValueError: If a size is not a whole number, or there are more layers than tensors, or a size is larger than
            any tensor's.
    """
    widest = max((max(shape, default=0) for shape in shapes), default=0)
    nested = [value for value in config.values() if isinstance(value, dict)]
    for name, value in (item for part in (config, *nested) for item in part.items()):
        layers = name == "num_hidden_layers" or (
            name.endswith(("_layer", "_layers")) and isinstance(value, int) and value > len(shapes)
        )
        if not layers and name not in _WIDTHS:
            continue
        least, most = int(name not in _MAY_BE_ZERO), len(shapes) if layers else widest
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            has = f"{most} tensors" if layers else f"no dimension beyond {most}"
            msg = (
                f"{name} must be an integer from {least} to what the weights hold, which have {has}; "
                f"{where} has {value!r}; use the config.json that was saved with the weights"
            )
            raise ValueError(msg)


def check_parameters(count: int, files: Sequence[Path], where: Path) -> None:
    """Refuses a model of more parameters than its files have bytes.

    Raises:
        ValueError: If so.
    """
    if count > (size := sum(file.stat().st_size for file in files)):
        msg = (
            f"{where} asks for {count:,} parameters, its weights have {size:,} bytes; "
            "use the config.json that was saved with the weights"
        )
        raise ValueError(msg)


def check_linear(shapes: Shapes, *, out_features: int | None, in_features: object, where: Path) -> None:
    """Refuses a head whose tensors are not those of a linear layer on the encoder's states.

    Args:
        shapes: Those of the head's file.
        out_features: Width of what it computes; None is any but 0.
        in_features: Width of the states; only an integer is compared.
        where: The file, for the message.

    Raises:
        ValueError: If so.
    """
    if set(shapes) != {"weight", "bias"}:
        msg = f"{where} must hold the weight and bias of a linear layer, it has {sorted(shapes)}"
        raise ValueError(msg)
    weight, bias = shapes["weight"], shapes["bias"]
    wide = len(weight) == 2 and weight[0] >= 1 and weight[0] == (out_features or weight[0])
    if not wide or bias != weight[:1] or (isinstance(in_features, int) and weight[1] != in_features):
        out = "at least 1" if out_features is None else out_features
        msg = (
            f"{where} must hold a weight of shape ({out}, {in_features}), the encoder's hidden size, and a bias as "
            f"long, got {weight} and {bias}; use the heads that were trained with this encoder"
        )
        raise ValueError(msg)


def check_packed(path: Path) -> None:
    """Refuses a zip of PyTorch's whose records are compressed: torch writes none, and they may unpack to anything.

    Raises:
        ValueError: If so.
    """
    with zipfile.ZipFile(path) as file:
        if any(record.compress_type != zipfile.ZIP_STORED for record in file.infolist()):
            msg = f"{path} is compressed, which no weight file of torch is; save it again with torch.save"
            raise ValueError(msg)


def digest(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tells the errors of a weight file that cannot be read, or that would run code, in our words.

    Raises:
        ValueError: In place of theirs.
    """
    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError:
        msg = (
            f"{path} holds more than tensors, which only code of its could make, and no code of a checkpoint is run; "
            "use a checkpoint whose weights are .safetensors"
        )
        raise ValueError(msg) from None  # torch's own message tells how to run the code
    except (SafetensorError, EOFError, RuntimeError, KeyError, IndexError, AttributeError, TypeError) as err:
        msg = f"{path} cannot be read, it is damaged or no weight file ({_line(err)}); download it again"
        raise ValueError(msg) from err


@contextmanager
def loadable(what: str, folder: Path) -> Iterator[None]:
    """Tells in a line, and by its folder, whatever transformers raises at a file that cannot be right.

    Args:
        what: Is made of the folder, as "the model".
        folder: The checkpoint's.

    Raises:
        ValueError: In place of theirs. What a package, the memory or the disk lacks stays as it is.
    """
    try:
        yield
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as err:
        if "out of memory" in str(err):  # a device's
            raise
        msg = f"{folder} cannot be loaded, {what} cannot be made of its files ({_line(err)}); download it again"
        raise ValueError(msg) from err


def _line(err: Exception) -> str:
    return " ".join(f"{type(err).__name__}: {err}".split())[:200]
