"""Texts to embeddings: the encoder, its results and the checkpoint format."""

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.memo import EmbeddingMemo
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.options import EncoderOptions
from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.encoding.passages import Passages
from m3plugins.encoding.sharing import shared_encoder
from m3plugins.encoding.sparse import SparseEmbeddings, SparseVector

__all__ = [
    "HEADS",
    "EmbeddingMemo",
    "EncoderOptions",
    "Head",
    "M3Encoder",
    "M3Output",
    "MultiVectorEmbeddings",
    "Passages",
    "SparseEmbeddings",
    "SparseVector",
    "shared_encoder",
]
