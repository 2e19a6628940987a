"""The settings of a checkpoint: what transformers must not be given, and what decides the vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m3plugins.encoding.checking import VOCABULARY_BYTES, read_json

MODEL_CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

_REFUSED = {
    MODEL_CONFIG: {
        "quantization_config": "its weights must be plain ones, so dequantise them",
        "transformers_weights": "its weights must be model.safetensors or the files of its index",
        "fusion_config": "its layers are those of the architecture, so remove the key",
        "experts_implementation": "it may name code of a hub, so remove the key",
    },
    TOKENIZER_CONFIG: dict.fromkeys(
        ("tokenizer_file", "vocab_file", "merges_file", "spm_file", "sp_model_file", "gguf_file"),
        "its tokenizer must be tokenizer.json in the folder, so remove the key",
    ),
}
"""Keys by which a file of settings makes transformers read files of its choice, fetch code, or change layers."""

_FOREIGN_FILES = {
    "adapter_config.json": "merge the adapter into the weights (`merge_and_unload` of peft)",
    "shard-*-model-*.safetensors": "save the model as model.safetensors",
}
"""Files that transformers takes weights from, in addition to those of a checkpoint or in place of them."""

_TRAINING = """attention_probs_dropout_prob attention_dropout classifier_dropout dropout finetuning_task
 gradient_checkpointing hidden_dropout_prob id2label initializer_factor initializer_range label2id num_labels
 problem_type task_specific_params tie_encoder_decoder tie_word_embeddings tf_legacy_loss use_bfloat16 xla_device"""
_GENERATION = """bad_words_ids begin_suppress_tokens bos_token_id decoder_start_token_id diversity_penalty do_sample
 early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty forced_bos_token_id
 forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
 num_return_sequences output_past output_scores prefix remove_invalid_values repetition_penalty
 return_dict_in_generate sep_token_id suppress_tokens temperature top_k top_p typical_p use_cache"""
_OURS = "_attn_implementation _attn_implementation_autoset attn_implementation dtype torch_dtype"
_PROVENANCE = "_commit_hash _name_or_path architectures name_or_path transformers_version"
_WITHOUT_EFFECT = {
    MODEL_CONFIG: frozenset(" ".join([_TRAINING, _GENERATION, _OURS, _PROVENANCE]).split()),
    TOKENIZER_CONFIG: frozenset(
        """_commit_hash backend chat_template clean_up_tokenization_spaces is_local local_files_only max_length
        model_input_names model_max_length name_or_path pad_to_multiple_of pad_token_type_id padding padding_side
        processor_class special_tokens_map_file stride truncation truncation_side truncation_strategy
        use_fast""".split()
    ),
}
"""Keys that no vector depends on: they are not read when texts are encoded, or `M3Encoder` decides them itself.

`model_max_length` is among them as an index records the length of its documents apart. What is not listed counts:
an unknown key may be one that a later version of transformers obeys.
"""

_DEFAULTS: Mapping[str, Any] = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "return_dict": True,
    "tokenizer_class": None,
    "torchscript": False,
}
"""What every configuration of transformers has where it says nothing; some versions write it out, some do not."""

_VERBATIM = 64
"""Characters of a value that is kept as it is; of a longer one, or of an object, a digest is."""


def check_settings(folder: Path) -> None:
    """Refuses what would make transformers fetch something, or take weights or vocabularies from elsewhere.

    Args:
        folder: Of a model for transformers.

    Raises:
        ValueError: If there is such a key, or such a file.
    """
    for name, keys in _REFUSED.items():
        settings = _read(folder / name)
        for key, fix in keys.items():
            if settings.get(key) is not None:
                msg = f"{folder / name} must not have {key!r}: {fix}"
                raise ValueError(msg)
    for pattern, fix in _FOREIGN_FILES.items():
        for path in sorted(folder.glob(pattern)):
            msg = f"{folder} must hold one model and nothing to change its weights, it has {path.name}; {fix}"
            raise ValueError(msg)


def read_weight_map(files: Sequence[Path]) -> dict[str, str]:
    """Which of the files has which weight; empty where there is one file of all, which is loaded in any case.

    Args:
        files: The checkpoint's weights, all of one format.

    Raises:
        ValueError: If weights are to be taken from another file.
    """
    single = "model.safetensors" if files[0].suffix == ".safetensors" else "pytorch_model.bin"
    known = {path.name for path in files}
    index = files[0].with_name(f"{single}.index.json")
    weight_map: dict[str, str] = {} if single in known else _read(index).get("weight_map") or {}
    if not isinstance(weight_map, dict):
        msg = f"the weight_map of {index} must be an object, got {type(weight_map).__name__}; save the model anew"
        raise ValueError(msg)
    for name in weight_map.values():
        if not isinstance(name, str) or name not in known:
            got = repr(str(name)[:80])
            msg = f"the weight_map of {index} must name weights in that folder, got {got}; save the model anew"
            raise ValueError(msg)
    return weight_map


def model_settings(folder: Path) -> dict[str, Any]:
    """What decides the vectors, beside weights and tokenizer, by name; what is long, or an object, as a digest."""
    config = _read(folder / MODEL_CONFIG)
    settings = {
        key: value
        for key, value in config.items()
        if key not in _WITHOUT_EFFECT[MODEL_CONFIG] and not (key in _DEFAULTS and value == _DEFAULTS[key])
    }
    return _short(settings, MODEL_CONFIG)


def tokenizer_settings(folder: Path, vocabulary: Path) -> dict[str, Any]:
    """What decides the token ids, by name.

    Args:
        folder: The checkpoint's.
        vocabulary: The file that the tokenizer is made of.
    """
    config = _read(folder / TOKENIZER_CONFIG)
    settings = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT[TOKENIZER_CONFIG]}
    if isinstance(name := settings.get("tokenizer_class"), str):
        settings["tokenizer_class"] = name.removesuffix("Fast")  # both load tokenizer.json
    others = ("special_tokens_map.json", "added_tokens.json")
    files = {name: content for name in others if (content := _read(folder / name))}
    return {
        vocabulary.name: _vocabulary_digest(vocabulary),
        **_short(files, ""),
        **_short(settings, TOKENIZER_CONFIG),
    }


def canonical(value: object) -> bytes:
    """JSON that is the same for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def _read(path: Path) -> dict[str, Any]:
    """What a file of settings holds; an empty mapping where there is no file."""
    return read_json(path, dict) if path.is_file() else {}


def _vocabulary_digest(path: Path) -> str:
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    content = read_json(path, dict, most=VOCABULARY_BYTES)
    for section in ("version", "truncation", "padding"):  # the encoder cuts and pads itself
        content.pop(section, None)
    return hashlib.sha256(canonical(content)).hexdigest()


def _short(settings: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Settings by the name of their file and their own, with a digest in the place of what is long."""
    prefix = f"{file}:" if file else ""
    return {f"{prefix}{key}": _scalar(value) for key, value in settings.items()}


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _VERBATIM):
        return value
    return f"sha256 {hashlib.sha256(canonical(value)).hexdigest()[:32]}"
