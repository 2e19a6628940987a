"""From what a user names (a folder, a hub id, "m3-mini") to a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from m3plugins.encoding.checkpoint import Checkpoint

_HUB_FILES = [
    "config.json",
    "model*.safetensors*",
    "pytorch_model*.bin*",
    "sparse_linear.*",
    "colbert_linear.*",
    "tokenizer*",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
]


def locate(model: str | Path, revision: str | None = None) -> Checkpoint:
    """Finds, downloads or (for "m3-mini") assembles a checkpoint.

    Args:
        model: A folder, a hub id or "m3-mini".
        revision: Branch, tag or commit of a hub id.

    Raises:
        FileNotFoundError: If there is no such model, or it is no M3 checkpoint.
    """
    if str(model) == "m3-mini" and not Path(model).is_dir():
        from m3plugins.encoding.mini import assemble

        folder = assemble()
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        folder = _download(str(model), revision)
    checkpoint = Checkpoint(folder)
    checkpoint.check()
    return checkpoint


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as err:
        msg = (
            f"no model {model!r}: it is no folder here and could not be had from the hub ({type(err).__name__}); "
            "check the name and the network, or give a checkpoint folder"
        )
        raise FileNotFoundError(msg) from err
