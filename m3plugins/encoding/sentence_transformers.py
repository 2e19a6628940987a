"""The files of sentence-transformers in a checkpoint folder, which state its pooling and its prompts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from m3plugins.encoding.checking import read_json

T = TypeVar("T", dict[str, Any], list[Any])

Pooling = Literal["cls", "mean"]

_MODULES = {"Transformer", "Pooling", "Normalize", "Dropout"}
"""Modules that M3 has, or that do nothing when texts are encoded."""

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of a document's prompt, the first that is there counts, as in `SentenceTransformer.encode_document`."""

_PROMPTS_FILE = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Prompts:
    """What the model reads ahead of every text, with nothing in between; "" is no prompt.

    Attributes:
        query: Ahead of queries.
        document: Ahead of documents.

    Raises:
        ValueError: If one is not a string of valid Unicode.
    """

    query: str = ""
    document: str = ""

    def __post_init__(self) -> None:
        for name, prompt in asdict(self).items():
            if not isinstance(prompt, str) or prompt.encode(errors="replace").decode() != prompt:
                msg = f"the {name} prompt must be a string of valid Unicode, got {prompt!r:.80}"
                raise ValueError(msg)


def read_pooling(folder: Path) -> Pooling:
    """How the dense vector is made of the token states; CLS where the folder does not say.

    Raises:
        ValueError: If the folder asks for another pooling, or for further modules.
    """
    config = _pooling_config(folder)
    modes = config.get("pooling_mode")  # since sentence-transformers 6; a flag a mode before
    if modes is None:
        modes = [name[len("pooling_mode_") :] for name, on in config.items() if name.startswith("pooling_mode_") and on]
    elif not isinstance(modes, list):
        modes = [modes]
    if not config or modes in (["cls"], ["cls_token"]):
        return "cls"
    if modes in (["mean"], ["mean_tokens"]):
        return "mean"
    msg = f"pooling must be cls or mean, {folder} asks for {' and '.join(map(str, modes)) or 'none'}; use another model"
    raise ValueError(msg)


def read_prompts(folder: Path) -> Prompts:
    """The prompts that the model was trained with, chosen by name as sentence-transformers chooses them.

    Raises:
        ValueError: If a prompt is not a string, or the default one is not there.
    """
    config = _read(folder / _PROMPTS_FILE, dict)
    stated, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(stated, dict):
        msg = f"prompts must be an object of texts by name, {folder / _PROMPTS_FILE} has {stated!r}"
        raise ValueError(msg)
    prompts = {name: "" if prompt is None else prompt for name, prompt in stated.items()}
    if default is not None and not (isinstance(default, str) and default in prompts):
        msg = f"default_prompt_name must be one of {sorted(prompts)}, {folder / _PROMPTS_FILE} has {default!r}"
        raise ValueError(msg)
    otherwise = "" if default is None else prompts[default]
    document = next((prompts[name] for name in _DOCUMENT_PROMPTS if name in prompts), otherwise)
    try:
        return Prompts(query=prompts.get("query", otherwise), document=document)
    except ValueError as err:
        msg = f"{folder / _PROMPTS_FILE}: {err}"
        raise ValueError(msg) from err


def save_prompts(folder: Path, prompts: Prompts) -> None:
    """States the prompts in a checkpoint folder, for `M3Encoder` and for sentence-transformers; keeps all else."""
    config = _read(folder / _PROMPTS_FILE, dict)
    config["prompts"] = {**(config.get("prompts") or {}), "query": prompts.query, "document": prompts.document}
    (folder / _PROMPTS_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def pools_prompts(folder: Path) -> bool:
    """Whether the tokens of a prompt count in the dense vector, as M3's do."""
    return bool(_pooling_config(folder).get("include_prompt", True))


def _pooling_config(folder: Path) -> dict[str, Any]:
    """The settings of the pooling module, empty where there is none."""
    path = "1_Pooling"
    for module in _read(folder / "modules.json", list):
        if not (isinstance(module, dict) and all(isinstance(module.get(key), str) for key in ("type", "path"))):
            msg = f"each module must have a type and a path, {folder / 'modules.json'} has {module!r:.80}"
            raise ValueError(msg)
        name = module["type"].rpartition(".")[2]
        if name not in _MODULES:
            msg = f"dense vectors must be pooled token states, {folder / 'modules.json'} has a {name[:80]} module too"
            raise ValueError(msg)
        if name == "Pooling":
            path = module["path"]
    return _read(folder / path / "config.json", dict)


def _read(path: Path, kind: type[T]) -> T:
    """What a JSON file holds; nothing where there is no file."""
    return read_json(path, kind) if path.is_file() else kind()
