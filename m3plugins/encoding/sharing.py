"""One encoder for all who name the same model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.options import EncoderOptions

_encoders: WeakValueDictionary[tuple[str, EncoderOptions], M3Encoder] = WeakValueDictionary()
_lock = threading.Lock()


def shared_encoder(model: str | Path, **options: Any) -> M3Encoder:
    """The encoder of this model and these options that someone in this process holds, or a new one.

    Adapters that are given a name take their encoder from here, so that the dense and the sparse embedder of one
    model hold its weights once, and remember together (`M3Encoder.memo`).

    Args:
        model: As in `M3Encoder.from_pretrained`.
        **options: The same.
    """
    asked = M3Encoder.from_pretrained(model, **options)
    with _lock:
        return _encoders.setdefault((asked.model, asked.options), asked)
