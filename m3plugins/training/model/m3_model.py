"""The M3 model in training: an encoder and its heads in one differentiable pass."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3plugins.encoding.backends.torch import load_encoder, load_linear, pool, quiet
from m3plugins.encoding.checkpoint import MULTI_VECTOR_HEAD, SPARSE_HEAD, Checkpoint, save_head
from m3plugins.encoding.output import HEADS
from m3plugins.encoding.sentence_transformers import Prompts, save_prompts
from m3plugins.training.data.batch import TokenBatch
from m3plugins.training.loss.representations import Representations, TokenVectors, TokenWeights
from m3plugins.training.model import adapters
from m3plugins.training.model.shared_embedding import SharedEmbedding
from m3plugins.training.model.state_cache import StateCache
from m3plugins.training.staging import staged

_COPIED = (
    *("tokenizer*", "sentencepiece.bpe.model", "special_tokens_map.json", "vocab.txt"),
    *("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
)


class M3Model(nn.Module):
    """An M3 checkpoint with gradients, in float32.

    Args:
        checkpoint: Checkpoint to load.
        heads: Heads to compute; the others keep their weights.
        freeze_encoder: Train the linear heads only. The encoder then runs without dropout.
        state_cache: Cache of a frozen encoder's token states.
        prompts: Prompts used in training, written to saved checkpoints; None means the checkpoint's own.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        heads: Sequence[str] = HEADS,
        freeze_encoder: bool = False,
        state_cache: StateCache | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint, self.heads = checkpoint, tuple(heads)
        self.frozen, self.state_cache = freeze_encoder, state_cache
        self.prompts = checkpoint.prompts if prompts is None else prompts
        self.encoder = load_encoder(checkpoint).float()
        self.sparse_linear = load_linear(checkpoint, SPARSE_HEAD)
        self.colbert_linear = load_linear(checkpoint, MULTI_VECTOR_HEAD)
        self.config = self.encoder.config  # transformers' Trainer reads it
        if freeze_encoder:
            self.encoder.requires_grad_(False)
        elif type(table := self.encoder.get_input_embeddings()) is nn.Embedding:  # a subclass may do more, as scaling
            self.encoder.set_input_embeddings(SharedEmbedding.replace(table))
        self.sparse_linear.requires_grad_("sparse" in self.heads)
        self.colbert_linear.requires_grad_("multi_vector" in self.heads)

    def forward(self, chunks: Sequence[TokenBatch]) -> list[Representations]:
        """Returns the representations of each chunk of texts; wrappers such as DDP see one call for all."""
        table = self.encoder.get_input_embeddings()
        if len(chunks) == 1 or not isinstance(table, SharedEmbedding):
            return [self.represent(chunk) for chunk in chunks]
        with table.shared([chunk.input_ids for chunk in chunks]):
            return [self.represent(chunk) for chunk in chunks]

    @contextmanager
    def one_lookup(self, chunks: Sequence[TokenBatch]) -> Iterator[None]:
        """Makes the backward passes of these chunks inside the block share one gradient of the embedding table."""
        table = self.encoder.get_input_embeddings()
        shared = isinstance(table, SharedEmbedding)
        with table.shared_by_passes([chunk.input_ids for chunk in chunks]) if shared else nullcontext():
            yield

    def train(self, mode: bool = True) -> M3Model:
        """Sets the mode; a frozen encoder stays without dropout."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recomputes activations in the backward pass instead of keeping them; transformers' trainer calls it."""
        if not self.frozen:
            self.encoder.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Does the same for versions of transformers before 5.23."""
        if not self.frozen:
            self.encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)

    def save(self, folder: Path) -> None:
        """Writes a standard M3 checkpoint folder, adapters merged; all of its files or none.

        The weights may be mapped from a file of that folder: it is replaced, never written into.
        """
        state = {name: tensor.detach().contiguous() for name, tensor in adapters.merged_state(self.encoder).items()}
        with staged(folder) as building:
            with quiet():
                self.encoder.save_pretrained(building, state_dict=state)
            weights = {file.name for file in building.glob("model*.safetensors*")}
            save_head(building, SPARSE_HEAD, self.sparse_linear.state_dict())
            save_head(building, MULTI_VECTOR_HEAD, self.colbert_linear.state_dict())
            for pattern in _COPIED:
                for source in self.checkpoint.folder.glob(pattern):
                    target = building / source.relative_to(self.checkpoint.folder)
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(source, target)
            if self.prompts != self.checkpoint.prompts:
                save_prompts(building, self.prompts)
        for other in folder.glob("model*.safetensors*"):
            if other.name not in weights:  # shards of what was there before
                other.unlink()

    @property
    def dropout(self) -> float:
        """Largest dropout probability of the encoder in training; 0 if it is frozen."""
        probabilities = [module.p for module in self.encoder.modules() if isinstance(module, nn.Dropout)]
        return 0.0 if self.frozen else max(probabilities, default=0.0)

    def trainable_state(self) -> dict[str, Tensor]:
        """Returns the parameters that training changes, by name."""
        return {name: tensor.detach() for name, tensor in self.named_parameters() if tensor.requires_grad}

    def represent(self, texts: TokenBatch) -> Representations:
        """Returns the representations of texts; in training call the model itself, as its wrappers expect."""
        states = self._states(texts)
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(torch.promote_types(states.dtype, torch.float32))
            dense = sparse = multi_vector = None
            if "dense" in self.heads:
                dense = F.normalize(pool(states, texts.mask, self.checkpoint.pooling).to(states.dtype), dim=-1)
            if "sparse" in self.heads:
                weights = self.sparse_linear(states).squeeze(-1).relu()
                sparse = TokenWeights(weights, texts.input_ids, texts.mask)
            if "multi_vector" in self.heads:
                vectors = F.normalize(self.colbert_linear(states[:, 1:]), dim=-1)
                multi_vector = TokenVectors(vectors, texts.mask[:, 1:])
        return Representations(dense=dense, sparse=sparse, multi_vector=multi_vector)

    def _states(self, texts: TokenBatch) -> Tensor:
        if not self.frozen:
            return self._encode(texts)
        with torch.no_grad():
            return self._encode(texts) if self.state_cache is None else self.state_cache.states(texts, self._encode)

    def _encode(self, texts: TokenBatch) -> Tensor:
        # Without padding the mask is left out: attention takes its fast path.
        mask = None if bool(texts.mask.all()) else texts.mask.long()
        states: Tensor = self.encoder(texts.input_ids, attention_mask=mask).last_hidden_state
        return states
