"""PyTorch: the encoder of transformers and the two linear heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedModel, __version__
from transformers.utils import logging

from m3plugins.encoding.backends.base import BatchOutput
from m3plugins.encoding.checking import check_parameters, loadable
from m3plugins.encoding.checkpoint import MULTI_VECTOR_HEAD, SPARSE_HEAD, Checkpoint
from m3plugins.encoding.forking import ON_ACCELERATOR, ForkError
from m3plugins.encoding.options import Dtype
from m3plugins.encoding.output import Head
from m3plugins.encoding.sentence_transformers import Pooling
from m3plugins.encoding.tokenizing import TokenizedText

_BATCH_TOKENS = {"cpu": 4096}
_ACCELERATOR_BATCH_TOKENS = 1 << 16
_ATTENTION = ("sdpa", "eager")
"""Attention of torch, and that which every model has: a model takes the first it has, whatever its settings ask for."""


class TorchBackend:
    """One replica of the model on one device.

    The encoder runs in the precision of its weights, the heads in float32.

    Args:
        encoder: The transformer, where it shall run.
        sparse: The linear layer of the sparse head, there too.
        multi_vector: That of the multi-vector head.
        pooling: How the dense vector is made.
        pad_id: Token id that fills batches up.
    """

    def __init__(
        self, encoder: PreTrainedModel, *, sparse: nn.Linear, multi_vector: nn.Linear, pooling: Pooling, pad_id: int
    ) -> None:
        self.device = sparse.weight.device
        self.forkable = self.device.type == "cpu"
        self.batch_tokens = _BATCH_TOKENS.get(self.device.type, _ACCELERATOR_BATCH_TOKENS)
        self._encoder, self._sparse, self._multi_vector = encoder, sparse, multi_vector
        self._pooling, self._pad_id = pooling, pad_id
        self.dim = int(encoder.config.hidden_size)
        self.multi_vector_dim = multi_vector.out_features
        self.vocab_size = int(encoder.config.vocab_size)

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, device: str, dtype: Dtype, pad_id: int) -> TorchBackend:
        """Loads a checkpoint.

        Args:
            checkpoint: What to load.
            device: A torch device, or "auto".
            dtype: Precision of the encoder, or "auto".
            pad_id: Token id that fills batches up.
        """
        where = torch_device(device)
        return cls(
            load_encoder(checkpoint).to(device=where, dtype=torch_dtype(dtype)).eval(),
            sparse=load_linear(checkpoint, SPARSE_HEAD).to(where).eval(),
            multi_vector=load_linear(checkpoint, MULTI_VECTOR_HEAD).to(where).eval(),
            pooling=checkpoint.pooling,
            pad_id=pad_id,
        )

    @torch.inference_mode()
    def forward(self, batch: Sequence[TokenizedText], heads: Sequence[Head]) -> BatchOutput:
        """The asked heads of a batch of texts, one pass of the encoder."""
        lengths = torch.tensor([len(text.ids) for text in batch])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        input_ids = torch.full(mask.shape, self._pad_id)
        input_ids[mask] = torch.from_numpy(np.concatenate([text.ids for text in batch])).long()
        cls, cls_tokens = torch.zeros_like(mask), [len(text.cls) for text in batch]
        cls[np.repeat(np.arange(len(batch)), cls_tokens), np.concatenate([text.cls for text in batch])] = True
        mask, cls = mask.to(self.device), cls.to(self.device)
        # Without padding the mask is left out: attention takes its fast path.
        attention_mask = None if bool(mask.all()) else mask.long()
        states = self._encoder(input_ids.to(self.device), attention_mask=attention_mask).last_hidden_state

        dense = token_weights = token_vectors = None
        if "dense" in heads:
            pooled = pool(states, cls, "mean") if max(cls_tokens) > 1 else pool(states, mask, self._pooling)
            dense = _numpy(normalize(pooled, dim=-1))
        if "sparse" in heads:
            token_weights = _numpy(torch.relu(self._sparse(states[mask].float())).squeeze(-1))
        if "multi_vector" in heads:
            token_vectors = _numpy(normalize(self._multi_vector(states[mask & ~cls].float()), dim=-1))
        return BatchOutput(dense, token_weights, token_vectors)


def torch_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first accelerator, or the CPU.

    Raises:
        ForkError: If this process cannot use CUDA, since its parent did.
    """
    # The parent may only have asked for devices, where there are none: counting them in here is safe, by the driver.
    if torch.cuda._is_in_bad_fork() and torch.cuda.device_count() and not name.startswith("cpu"):
        raise ForkError(ON_ACCELERATOR)
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def torch_dtype(name: Dtype) -> torch.dtype:
    """The precision of that name; "auto" is float32."""
    dtype: torch.dtype = getattr(torch, "float32" if name == "auto" else name)
    return dtype


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """The dense vector before normalisation.

    Args:
        states: Shape (b, length, dim).
        mask: True for tokens, False for padding, shape (b, length).
        pooling: The first token's state, or the mean over the tokens.

    Returns:
        Shape (b, dim), float32.
    """
    if pooling == "cls":
        return states[:, 0].float()
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)


def load_encoder(checkpoint: Checkpoint) -> PreTrainedModel:
    """The checkpoint's transformer, without its unused pooler.

    Raises:
        ValueError: Weights are missing, damaged or of other shapes than the configuration says.
    """
    encoder, report = load_pretrained(AutoModel, checkpoint.folder)
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        msg = (
            f"a checkpoint must hold all weights of its encoder, {checkpoint.folder} lacks {len(missing)} of them, "
            f"such as {missing[0]}; download it again, or save it from the whole model"
        )
        raise ValueError(msg)
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    return encoder


def load_pretrained(auto: type[Any], folder: Path) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """A model of transformers in float32, and the report of its loading.

    What a folder's settings ask for beside the model is not obeyed: code of its own, kernels of a hub for its
    attention, another precision, another format of its weights.

    Args:
        auto: A class such as `AutoModel`.
        folder: Of the model; it must pass `check_settings`.

    Raises:
        ValueError: If its weights are damaged, or of other sizes than its configuration says, or if transformers
            cannot make that model.
    """
    local = {"trust_remote_code": False, "local_files_only": True}
    checkpoint = Checkpoint(folder)
    checkpoint.check_sizes()
    if str(kind := checkpoint.config.get("model_type")) not in CONFIG_MAPPING:
        msg = (
            f"{folder / 'config.json'} must have a model_type that transformers {__version__} knows, got "
            f"{str(kind)[:80]!r}; a checkpoint's own code is never run: use a model of transformers, or a newer version"
        )
        raise ValueError(msg)
    with quiet(), loadable("the model", folder):
        config = AutoConfig.from_pretrained(folder, **local)  # read apart, it overrides no argument
        with torch.device("meta"):  # shapes, without memory
            described = auto.from_config(deepcopy(config), trust_remote_code=False, attn_implementation=_ATTENTION[1])
    check_parameters(described.num_parameters(), checkpoint.weight_files(), folder / "config.json")
    options: dict[str, Any] = {
        **local,
        "config": config,
        "use_safetensors": any(folder.glob("model*.safetensors")),
        "torch_dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    with quiet(), loadable("the model", folder):
        try:
            model, report = auto.from_pretrained(folder, attn_implementation=_ATTENTION[0], **options)
        except ValueError as err:
            if "scaled_dot_product_attention" not in str(err):
                raise
            model, report = auto.from_pretrained(folder, attn_implementation=_ATTENTION[1], **options)
    if mismatched := sorted(report["mismatched_keys"]):
        name = mismatched[0] if isinstance(mismatched[0], str) else mismatched[0][0]  # transformers 4 has names alone
        msg = (
            f"{folder / 'config.json'} must be that of the weights: it makes {name} "
            f"{tuple(model.state_dict()[name].shape)}, which they do not hold; download the model again"
        )
        raise ValueError(msg)
    return model, report


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars that transformers shows for weights, and without its report of a pooler that nobody uses.

    The report also tells of missing weights: who loads a model in here checks for them.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars of transformers, but with its warnings."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_linear(checkpoint: Checkpoint, head: str) -> nn.Linear:
    """A head's linear layer, float32."""
    state = checkpoint.load_head(head)
    out_features, in_features = state["weight"].shape
    linear = nn.Linear(in_features, out_features)
    linear.load_state_dict(state)
    return linear.float()


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
