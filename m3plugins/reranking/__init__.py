"""Rerankers: the three heads of M3, or a cross-encoder."""

from m3plugins.reranking.cross_encoder import CrossEncoderReranker
from m3plugins.reranking.m3 import M3Reranker
from m3plugins.reranking.protocol import Reranker

__all__ = ["CrossEncoderReranker", "M3Reranker", "Reranker"]
