"""Codecs for stored multi-vectors."""

from m3plugins.compression.binary import BinaryCodec
from m3plugins.compression.codec import CODECS, DEFAULT_CODEC, Codec, get_codec
from m3plugins.compression.float16 import Float16Codec
from m3plugins.compression.int8 import Int8Codec

__all__ = ["CODECS", "DEFAULT_CODEC", "BinaryCodec", "Codec", "Float16Codec", "Int8Codec", "get_codec"]
