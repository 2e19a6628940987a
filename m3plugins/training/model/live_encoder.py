"""An encoder over a model in training."""

from __future__ import annotations

from dataclasses import replace

from m3plugins.encoding.backends.torch import TorchBackend
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.loaded import LoadedModel
from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.training.model.m3_model import M3Model


def live_encoder(model: M3Model, encoder: M3Encoder) -> M3Encoder:
    """Returns an encoder that runs a model in training, as it is at each call, with the settings of another encoder.

    Its prompts are those that the model is trained with, its fingerprint is of the checkpoint that training started
    from.
    """
    model.eval()
    _, special = load_tokenizer(encoder.checkpoint.folder)
    backend = TorchBackend(
        model.encoder,
        sparse=model.sparse_linear,
        multi_vector=model.colbert_linear,
        pooling=model.checkpoint.pooling,
        pad_id=special.pad,
    )
    prompts = model.prompts
    options = replace(encoder.options, query_prompt=prompts.query, document_prompt=prompts.document)
    return M3Encoder(encoder.model, options, loaded=LoadedModel(encoder.checkpoint, options, [backend]))
