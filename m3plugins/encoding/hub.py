"""Downloads from a hub of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_MODEL_FILES = ("config.json", "tokenizer*", "*.model", "*_tokens*.json", "vocab.*", "merges.txt")


def download(model: str, revision: str | None = None, *, further: Sequence[str] = ()) -> Path:
    """The folder with a hub's model, from the hub's cache if it is there: safetensors, or else PyTorch's own format.

    Args:
        model: A hub id.
        revision: Branch, tag or commit.
        further: Patterns of files to have, beside the weights, the configuration and the tokenizer.

    Raises:
        FileNotFoundError: If the hub does not give it.
        OSError: If it cannot be stored.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    files = [*_MODEL_FILES, *further]
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=[*files, "model*.safetensors*"]))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=[*files, "pytorch_model*.bin*"]))
    except GatedRepoError as err:
        msg = (
            f"no model {model!r}: its owner lets only some have it; ask for access on its page at the hub, "
            "then log in with `hf auth login`"
        )
        raise FileNotFoundError(msg) from err
    except (OSError, HFValidationError) as err:
        # Errors of the hub are OSErrors too, without a number.
        if isinstance(err, OSError) and err.errno is not None and not isinstance(err, ConnectionError | TimeoutError):
            msg = f"the download of {model!r} failed: {err.strerror}"
            raise OSError(err.errno, msg, err.filename) from err
        msg = (
            f"no model {model!r}: it is no folder here and could not be had from the hub ({type(err).__name__}); "
            "check the name and the network, or give a folder"
        )
        raise FileNotFoundError(msg) from err
    return folder
