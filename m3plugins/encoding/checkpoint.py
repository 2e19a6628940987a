"""The M3 checkpoint folder: a Hugging Face encoder and the files of its two linear heads."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.checking import (
    check_config,
    check_files,
    check_linear,
    check_packed,
    read_json,
    readable,
    safetensors_shapes,
)
from m3plugins.encoding.sentence_transformers import Pooling, Prompts, pools_prompts, read_pooling, read_prompts
from m3plugins.encoding.settings import canonical, check_settings, model_settings, read_weight_map, tokenizer_settings

if TYPE_CHECKING:
    import torch

SPARSE_HEAD = "sparse_linear"
MULTI_VECTOR_HEAD = "colbert_linear"
VOCABULARIES = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")
"""Files that the tokenizer is made of: the first that is there is read."""

_UNBOUNDED = 10**9
_LEAST_LENGTH = 3
_NO_PROMPTS = Prompts()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, read on demand.

    The format is BGE-M3's: `config.json`, the encoder's weights, tokenizer files, `sparse_linear` and
    `colbert_linear` (each as `.safetensors`, or as `.pt`, a state dict). Where the dense head is not the CLS state,
    or texts have prompts, the files of sentence-transformers say so.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    def check(self) -> None:
        """Refuses a folder that is not an M3 checkpoint. Of weights the headers are read.

        Raises:
            FileNotFoundError: If the configuration, the tokenizer, the weights or a head's are missing.
            ValueError: If the folder asks for a pooling that is not M3's, takes something from elsewhere, or has files
                or sizes that cannot be right.
        """
        check_files(self.folder)
        if not (self.folder / "config.json").is_file():
            msg = f"{self.folder} is not a checkpoint folder: it has no config.json"
            raise FileNotFoundError(msg)
        heads = {head: self._head_file(head) for head in (SPARSE_HEAD, MULTI_VECTOR_HEAD)}
        read_weight_map(self.weight_files())
        self._tokenizer_file()
        check_settings(self.folder)
        read_pooling(self.folder)
        if self.weight_files()[0].suffix == ".safetensors":
            self.check_sizes()
        for head, path in heads.items():
            if path.suffix == ".safetensors":
                self._check_head(head, safetensors_shapes(path))
        self.max_length  # noqa: B018

    @cached_property
    def config(self) -> dict[str, Any]:
        """The encoder's `config.json`."""
        return read_json(self.folder / "config.json", dict)

    @cached_property
    def pooling(self) -> Pooling:
        """How the dense vector is made of the token states: M3's CLS, or the mean.

        Raises:
            ValueError: If the folder asks for another pooling.
        """
        return read_pooling(self.folder)

    @cached_property
    def prompts(self) -> Prompts:
        """What goes ahead of queries and of documents.

        Raises:
            ValueError: If the folder does not state them as it should.
        """
        return read_prompts(self.folder)

    def prompted(self, *, query: str | None, document: str | None) -> Prompts:
        """The folder's prompts, or those given where they are not None.

        Raises:
            ValueError: If there are any, and the model leaves them out of its dense vectors.
        """
        prompts = Prompts(
            query=self.prompts.query if query is None else query,
            document=self.prompts.document if document is None else document,
        )
        if prompts != _NO_PROMPTS and not pools_prompts(self.folder):
            msg = f"prompts must be pooled with the text, {self.folder} has include_prompt=false; use another model"
            raise ValueError(msg)
        return prompts

    @cached_property
    def max_length(self) -> int:
        """Tokens of the longest text the model reads, special tokens included.

        Raises:
            ValueError: If that is none, or too few for a text.
        """
        tokenizer_config = self.folder / "tokenizer_config.json"
        stated = read_json(tokenizer_config, dict) if tokenizer_config.is_file() else {}
        try:
            return max_sequence_length(self.config, stated.get("model_max_length"))
        except ValueError as err:
            msg = f"{self.folder}: {err}"
            raise ValueError(msg) from err

    def load_head(self, head: str) -> dict[str, torch.Tensor]:
        """The `weight` and `bias` of a head's linear layer.

        Raises:
            FileNotFoundError: If the folder has no file of it.
            ValueError: If the file holds something else.
        """
        path = self._head_file(head)
        state = dict(_tensors(path))
        self._check_head(head, {name: tuple(tensor.shape) for name, tensor in state.items()})
        if not all(tensor.is_floating_point() for tensor in state.values()):
            msg = f"{path} must hold floating-point tensors, it has {state['weight'].dtype}; save it in float32"
            raise ValueError(msg)
        return {name: tensor.clone() for name, tensor in state.items()}  # no longer mapped to the file

    def description(self, *, mcls: int | None = None, prompts: Prompts = _NO_PROMPTS) -> dict[str, Any]:
        """What decides the vectors, by name: a digest of the weights, settings, and a digest of the vocabulary.

        The tensors are hashed, not their files, so a `.pt` and its `.safetensors` twin are one model. Settings that no
        vector depends on are left out.

        Args:
            mcls: Tokens of text per CLS token, where documents have several.
            prompts: Those that texts are encoded with.
        """
        weights = self.weight_files()
        parts = {"weights": weights, **{head: [self._head_file(head)] for head in (SPARSE_HEAD, MULTI_VECTOR_HEAD)}}
        return {
            **{name: _digest(hashlib.sha256(), files).hexdigest() for name, files in parts.items()},
            "weight_map": hashlib.sha256(canonical(read_weight_map(weights))).hexdigest()[:32],
            "pooling": self.pooling,
            "mcls": mcls,
            "query_prompt": prompts.query,
            "document_prompt": prompts.document,
            **model_settings(self.folder),
            **tokenizer_settings(self.folder, self._tokenizer_file()),
        }

    def fingerprint(self, *, mcls: int | None = None, prompts: Prompts = _NO_PROMPTS) -> str:
        """64 hex digits that change with whatever changes the vectors: a digest of the `description`."""
        return fingerprint_of(self.description(mcls=mcls, prompts=prompts))

    def former_fingerprint(self, *, mcls: int | None = None, prompts: Prompts = _NO_PROMPTS) -> str:
        """What `fingerprint` was in indexes that record no `description`: it leaves out the settings."""
        reading = "" if mcls is None else f" mcls={mcls}"
        if prompts != _NO_PROMPTS:
            reading += f" prompts={json.dumps([prompts.query, prompts.document])}"
        hasher = hashlib.sha256(f"m3plugins/1 pooling={self.pooling}{reading}".encode())
        _digest(hasher, [*self.weight_files(), self._head_file(SPARSE_HEAD), self._head_file(MULTI_VECTOR_HEAD)])
        hasher.update(self._tokenizer_file().read_bytes())
        return hasher.hexdigest()

    def check_sizes(self) -> None:
        """Refuses a configuration of sizes that the encoder's weights cannot have; `.bin` files are read for it.

        Raises:
            ValueError: If so, or the weights cannot be read.
        """
        shapes: list[tuple[int, ...]] = []
        for path in self.weight_files():
            if path.suffix == ".safetensors":
                shapes += safetensors_shapes(path).values()
            else:
                shapes += (tuple(tensor.shape) for tensor in _unpickled(path).values())
        check_config(self.config, shapes, self.folder / "config.json")

    def _check_head(self, head: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        out_features = 1 if head == SPARSE_HEAD else None
        hidden_size = self.config.get("hidden_size")
        check_linear(shapes, out_features=out_features, in_features=hidden_size, where=self._head_file(head))

    def _head_file(self, head: str) -> Path:
        for suffix in (".safetensors", ".pt"):
            if (path := self.folder / f"{head}{suffix}").is_file():
                return path
        msg = (
            f"{self.folder} lacks {head}.pt (or .safetensors), so it is no M3 checkpoint; "
            "use BAAI/bge-m3 or a folder that M3 training saved with both heads"
        )
        raise FileNotFoundError(msg)

    def weight_files(self) -> list[Path]:
        """The files of the encoder's weights.

        Raises:
            FileNotFoundError: If there are none.
        """
        for pattern in ("model*.safetensors", "pytorch_model*.bin"):
            if files := sorted(self.folder.glob(pattern)):
                return files
        msg = f"{self.folder} has no encoder weights (model.safetensors or pytorch_model.bin)"
        raise FileNotFoundError(msg)

    def _tokenizer_file(self) -> Path:
        for name in VOCABULARIES:
            if (path := self.folder / name).is_file():
                return path
        msg = f"{self.folder} has no tokenizer (tokenizer.json)"
        raise FileNotFoundError(msg)


def fingerprint_of(description: Mapping[str, Any]) -> str:
    """The fingerprint of a model that is described so."""
    return hashlib.sha256(b"m3plugins/2 " + canonical(description)).hexdigest()


def max_sequence_length(config: dict[str, Any], tokenizer_limit: float | None) -> int:
    """Tokens of the longest text: what the positions allow, and the tokenizer states.

    Args:
        config: The encoder's configuration.
        tokenizer_limit: The tokenizer's `model_max_length`; transformers writes 1e30 for none.

    Raises:
        ValueError: If one of them is no number, or there is no room for a token of text and two special ones.
    """
    positions = config.get("max_position_embeddings")
    padding = config.get("pad_token_id", 1)
    for name, value in {"max_position_embeddings": positions, "model_max_length": tokenizer_limit}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
            msg = f"{name} must be a number of tokens, got {value!r}; use the file that was saved with the weights"
            raise ValueError(msg)
    positions = _UNBOUNDED if positions is None else positions
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            msg = f"pad_token_id must be a token id, got {padding!r}; use the file that was saved with the weights"
            raise ValueError(msg)
        positions -= padding + 1  # their positions count from pad_token_id + 1
    length = min(positions, tokenizer_limit or _UNBOUNDED, _UNBOUNDED)
    if length < _LEAST_LENGTH:
        msg = (
            f"a model must read at least {_LEAST_LENGTH} tokens (two special ones, one of the text), got {length} by "
            f"max_position_embeddings={config.get('max_position_embeddings')} and model_max_length={tokenizer_limit}"
        )
        raise ValueError(msg)
    return int(length)


def save_head(folder: Path, head: str, state: dict[str, torch.Tensor]) -> None:
    """Writes a head's linear layer as `.safetensors` and as the `.pt` twin that FlagEmbedding reads."""
    import torch
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / f"{head}.safetensors")
    torch.save(tensors, folder / f"{head}.pt")


def _digest(hasher: hashlib._Hash, files: Iterable[Path]) -> hashlib._Hash:
    """The hasher, after the tensors of these files."""
    for path in files:
        for name, tensor in _tensors(path):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hasher.update(_bytes(tensor).data)
    return hasher


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors of a weight file, by name; a `.pt` or `.bin` is read without running any code of its.

    Raises:
        ValueError: If it cannot be read, or holds something else.
    """
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with readable(path), safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
    else:
        yield from sorted(_unpickled(path).items())


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    import torch

    mappable = zipfile.is_zipfile(path)  # files of torch < 1.6 are not
    if mappable:
        check_packed(path)
    with readable(path):
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    if not isinstance(state, dict) or not all(map(_is_plain, state, state.values())):
        msg = f"{path} must hold dense tensors by name, as torch.save(model.state_dict(), …) writes them"
        raise ValueError(msg)
    return state


def _is_plain(name: object, tensor: object) -> bool:
    """Whether it is a name, and a tensor of as many numbers in the file as in memory: an expanded one has fewer."""
    import torch

    if not (isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided):
        return False
    return not tensor.is_meta and tensor.untyped_storage().nbytes() >= tensor.nbytes


def _bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    import torch

    raw: NDArray[np.uint8] = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw
