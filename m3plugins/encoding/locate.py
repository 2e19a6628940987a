"""Location of the folder of files that a user names: a folder, a hub id, "m3-mini"."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.hub import download
from m3plugins.encoding.mini import assemble

BUNDLED = ("m3-mini",)
"""Models that come with the package, by name."""

_KNOWN = {name.rpartition("/")[2]: name for name in (*BUNDLED, "BAAI/bge-m3", "BAAI/bge-reranker-v2-m3")}
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_M3_FILES = (
    "sparse_linear.*",
    "colbert_linear.*",
    "modules.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
)


def local_folder(model: object, *, bundled: Sequence[str] = ()) -> Path | None:
    """The folder that is named; None for a bundled model or a hub id, whose files are to be had later.

    Nothing is loaded and no hub is asked, so that a name that cannot be right is refused as soon as it is given.

    Args:
        model: A folder, a hub id or the name of a bundled model.
        bundled: The names of bundled models that may be meant.

    Raises:
        TypeError: If it is neither a string nor a path.
        ValueError: If it is a URL.
        FileNotFoundError: If it is no folder, and can be nothing else.
    """
    if not isinstance(model, str | os.PathLike):
        msg = f"model must be the name of a model or a folder, got {type(model).__name__}"
        raise TypeError(msg)
    name, folder = os.fspath(model), Path(model)
    if "://" in name:
        msg = "model must be a folder or a hub id, got a URL; a service is named by http:// or https://"
        raise ValueError(msg)
    if name and folder.is_dir():
        return folder
    if isinstance(model, str) and (name in bundled or _HUB_ID.fullmatch(name)):
        return None
    if name and folder.exists():
        fix = "it is a file; give the folder that holds it"
    elif (near := get_close_matches(folder.name.lower(), _KNOWN, n=1)) and _KNOWN[near[0]] != name:
        fix = f"did you mean {_KNOWN[near[0]]!r}?"
    else:
        fix = "it is no folder here, and a hub id is owner/name, such as BAAI/bge-m3; check the spelling"
    msg = f"no model {name!r}: {fix}"
    raise FileNotFoundError(msg)


def locate(model: str | Path, revision: str | None = None) -> Checkpoint:
    """Finds, downloads or (for "m3-mini") assembles a checkpoint.

    Args:
        model: A folder, a hub id or "m3-mini".
        revision: Branch, tag or commit of a hub id.

    Raises:
        FileNotFoundError: If there is no such model, or it is no M3 checkpoint.
    """
    folder = local_folder(model, bundled=BUNDLED)
    if folder is None and model in BUNDLED:
        folder = assemble()
    checkpoint = Checkpoint(folder or download(str(model), revision, further=_M3_FILES))
    checkpoint.check()
    return checkpoint
