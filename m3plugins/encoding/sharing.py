"""One encoder for all who name the same model."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.options import EncoderOptions

_Stamp = tuple[tuple[str, int, int], ...]

_encoders: WeakValueDictionary[tuple[str, EncoderOptions, _Stamp], M3Encoder] = WeakValueDictionary()
_lock = threading.Lock()


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def shared_encoder(model: str | Path, **options: Any) -> M3Encoder:
    """The encoder of this model and these options that someone in this process holds, or a new one.

    Adapters that are given a name take their encoder from here, so that the dense and the sparse embedder of one
    model hold its weights once, and remember together (`M3Encoder.memo`). A folder whose files were written anew is
    another model.

    Args:
        model: As in `M3Encoder.from_pretrained`.
        **options: The same.
    """
    asked = M3Encoder.from_pretrained(model, **options)
    with _lock:
        return _encoders.setdefault((asked.model, asked.options, _stamp(Path(asked.model))), asked)


def _stamp(folder: Path) -> _Stamp:
    """Names, sizes and times of a folder's files; nothing for a hub id."""
    if not folder.is_dir():
        return ()
    found = sorted((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns) for path, stat in found)
