"""Fuzzing of checkpoint folders: a model that loads is sound and known by its fingerprint, all else is refused."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import AutoModel

from benchmarks.fixtures import SENTENCES, save_checkpoint
from benchmarks.fuzz import children, folders
from benchmarks.fuzz.edits import Case, Edit, to_json
from benchmarks.fuzz.failures import Failure, failure, refused, require
from m3plugins import M3Encoder, M3Output

SECONDS = 10.0
MEMORY = 2 << 30
TEXTS = SENTENCES[:4]
_LENGTH = 64
_TOLERANCE = 1e-4

LIKELY: folders.Likely = {
    "config.json": {
        "num_hidden_layers": [0, 1, 10**7],
        "hidden_act": ["relu", "gelu_new", "os.system"],
        "model_type": ["bert", "roberta", "t5", "llama", "nonsense"],
        "architectures": [["XLMRobertaForMaskedLM"], ["BertModel"]],
        "dtype": ["float16", "bfloat16", "float64", "int8"],
        "attn_implementation": ["eager", "flash_attention_2", "kernels-community/flash-attn"],
        "_attn_implementation": ["eager", "kernels-community/flash-attn"],
        "auto_map": [{"AutoModel": "code.Model", "AutoConfig": "code.Config"}],
        "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}],
        "is_decoder": [True],
        "add_cross_attention": [True],
        "tie_word_embeddings": [False],
        "chunk_size_feed_forward": [1, 7],
        "layer_norm_eps": [1e-2, 0.0],
        "position_embedding_type": ["relative_key"],
        "use_cache": [False],
    },
    "tokenizer_config.json": {
        "tokenizer_class": ["BertTokenizer", "LlamaTokenizer", "code.Tokenizer"],
        "do_lower_case": [True],
        "auto_map": [{"AutoTokenizer": ["code.Tokenizer", None]}],
        "model_max_length": [0, 1, 2, 3, -1, 1e30],
        "cls_token": ["</s>", "a"],
        "sep_token": ["<s>"],
        "pad_token": ["</s>"],
        "add_prefix_space": [False],
    },
    "model.safetensors.index.json": {"weight_map": [{}]},
    "config_sentence_transformers.json": {"prompts": [{"query": "q: "}], "default_prompt_name": ["query", "none"]},
    "modules.json": {},
    "1_Pooling/config.json": {"pooling_mode": ["mean", "max"], "include_prompt": [False]},
}  # fmt: skip

_ADDED = {
    "1_Pooling/config.json": '{"pooling_mode_cls_token": true, "include_prompt": true}',
    "modules.json": '[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
    "config_sentence_transformers.json": '{"prompts": {"query": "", "document": ""}, "default_prompt_name": null}',
    "code.py": "raise SystemExit",
}
"""Files that a checkpoint may have beside those of the tiny one."""

_ADAPTER = '{"peft_type": "LORA", "base_model_name_or_path": "../outside", "r": 2, "target_modules": ["query"]}'


@dataclass(frozen=True)
class _Encoded:
    """The embeddings that a checkpoint gave."""

    fingerprint: str
    dense: NDArray[np.float32]
    sparse: list[dict[int, float]]
    multi_vector: list[NDArray[np.float32]]

    def same(self, other: _Encoded) -> bool:
        """Tells whether the vectors are the other's, to the last digits."""
        if any(mine.keys() != theirs.keys() for mine, theirs in zip(self.sparse, other.sparse, strict=True)):
            return False
        pairs = [
            (self.dense, other.dense),
            *zip(self.multi_vector, other.multi_vector, strict=True),
            *((list(m.values()), [t[i] for i in m]) for m, t in zip(self.sparse, other.sparse, strict=True)),
        ]
        return all(np.shape(m) == np.shape(t) and np.allclose(m, t, atol=_TOLERANCE) for m, t in pairs)


class Checkpoints:
    """Edits of a tiny checkpoint, in shards with an index, with the files of sentence-transformers.

    Args:
        folder: An empty folder to work in.
    """

    name = "checkpoints"

    def __init__(self, folder: Path) -> None:
        self._base, self._folder = folder / "base", folder / "model"
        _make(self._base)
        shutil.copytree(self._base, folder / folders.OUTSIDE)
        files = sorted(str(path.relative_to(self._base)) for path in self._base.rglob("*") if path.is_file())
        kinds = [folders.edits(self._base, file, LIKELY) for file in files]
        one = st.one_of(*kinds, st.just(Edit("adapter_config.json", "create", (), _ADAPTER)))
        self.cases = st.lists(one, min_size=1, max_size=3).map(tuple)
        self._original = _encode(self._base)

    def check(self, case: Case) -> str | None:
        """Loads and encodes in a child process."""
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._base, self._folder)
        folders.apply(case, self._folder)
        encoded = children.run(
            lambda: _tried(self._folder, case), seconds=SECONDS, memory=MEMORY, readable=[self._folder]
        )
        if isinstance(encoded, Failure):
            raise failure(encoded.kind, encoded.detail)
        if encoded is None:
            return None
        changed = encoded.fingerprint != self._original.fingerprint
        same = encoded.same(self._original)
        places = ", ".join(sorted({f"{edit.place} {_key(edit.at)}".strip() for edit in case}))
        require(same or changed, f"one fingerprint for two models ({places})", to_json(case))
        outside = [e for e in case if e.place.endswith(".index.json") and folders.OUTSIDE in to_json((e,))]
        require(not outside or same, "weights from outside of the folder", to_json(case))
        return "another fingerprint for the same vectors" if same and changed else None


def _key(at: tuple[Any, ...]) -> str:
    return at[0] if at and isinstance(at[0], str) else ""


def _make(folder: Path) -> None:
    save_checkpoint(folder, max_length=256)

    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    for head in ("sparse_linear", "colbert_linear"):
        save_file(torch.load(folder / f"{head}.pt", weights_only=True), folder / f"{head}.safetensors")
        (folder / f"{head}.pt").unlink()
    for name, text in _ADDED.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _tried(folder: Path, case: Case) -> _Encoded | Failure | None:
    """Returns what a folder gives, None if it was refused as it should be, or the failure."""
    try:
        try:
            return _encode(folder)
        except Failure:
            raise
        except Exception as error:
            names = [str(folder), *(Path(edit.place).name for edit in case)]
            refused(error, names, (ValueError, OSError))
            return None
    except Failure as found:
        return Failure(found.kind, found.detail)  # of a type that pickles


def _encode(folder: Path) -> _Encoded:
    encoder = M3Encoder.from_pretrained(folder, document_max_length=None)
    fingerprint = encoder.fingerprint
    output = encoder.encode_documents(TEXTS)
    _check_sound(output, encoder)
    assert output.dense is not None and output.sparse is not None and output.multi_vector is not None
    return _Encoded(
        fingerprint,
        output.dense,
        [vector.to_dict() for vector in output.sparse],
        [np.array(vectors) for vectors in output.multi_vector],
    )


def _check_sound(output: M3Output, encoder: M3Encoder) -> None:
    dense, sparse, multi_vector = output.dense, output.sparse, output.multi_vector
    require(dense is not None and sparse is not None and multi_vector is not None, "a head is missing")
    assert dense is not None and sparse is not None and multi_vector is not None
    require(dense.shape == (len(TEXTS), encoder.dim) and encoder.dim > 0, "dense vectors of a wrong shape", dense.shape)
    require(len(sparse) == len(multi_vector) == len(TEXTS), "a text without its vectors")
    require(np.allclose(np.linalg.norm(dense, axis=1), 1, atol=1e-3), "dense vectors that are not of unit length")
    for weights, vectors in zip(sparse, multi_vector, strict=True):
        tokens = weights.to_dict()
        require(all(np.isfinite(w) and w > 0 for w in tokens.values()), "sparse weights that are not positive", tokens)
        require(all(0 <= i < encoder.vocab_size for i in tokens), "sparse ids outside of the vocabulary", tokens)
        require(len(vectors) > 0 and vectors.shape[1] > 0, "no token vectors", vectors.shape)
        norms = np.linalg.norm(vectors, axis=1)
        require(np.allclose(norms, 1, atol=1e-3), "token vectors that are not of unit length", norms)
