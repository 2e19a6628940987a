"""What does not fit a row: token vectors and the rest of a long text, in VARCHAR blocks.

Block n of a document's revision has the key `{key}:{revision}:{n}` (text: `:t{n}`). Blocks are written
before the row that names their revision and deleted after it is gone, and a revision is a digest of the
content, so writing one twice writes the same bytes. A crash leaves orphans at worst; `orphans` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pybase64

from m3plugins_milvus.collection import Row
from m3plugins_milvus.schema import KEY, MAX_VARCHAR

BLOCK_BYTES = MAX_VARCHAR // 4 * 3
"""Bytes whose base64 fills a VARCHAR (Milvus has no type for bytes)."""

MAX_BLOCKS = 1 << 16
"""More of one kind than a document has: 3 GiB of token vectors, 4 GiB of text."""

POINTER = ("revision", "vector_blocks", "text_blocks")
"""The fields of a row that say which blocks are its own."""


@dataclass(frozen=True)
class BlockKeys:
    """The keys of one document's blocks.

    Attributes:
        vectors: Of its token vectors, in order.
        text: Of its text beyond the row, in order.
    """

    vectors: list[str]
    text: list[str]

    @classmethod
    def of(cls, row: Mapping[str, object]) -> BlockKeys:
        """The blocks that a row names; it must have the fields `key` and POINTER."""
        start = f"{row[KEY]}:{row['revision']}:"
        vectors, text = int(str(row["vector_blocks"])), int(str(row["text_blocks"]))
        return cls([f"{start}{n}" for n in range(vectors)], [f"{start}t{n}" for n in range(text)])

    def all(self) -> list[str]:
        """Every block."""
        return self.vectors + self.text


def block_rows(keys: BlockKeys, vectors: bytes, text: list[str]) -> Iterator[Row]:
    """The rows of the blocks that hold these bytes and these pieces of text."""
    pieces = (vectors[start : start + BLOCK_BYTES] for start in range(0, len(vectors), BLOCK_BYTES))
    for key, piece in zip(keys.vectors, pieces, strict=True):
        yield block_row(key, pybase64.b64encode_as_string(piece))
    for key, part in zip(keys.text, text, strict=True):
        yield block_row(key, part)


def block_count(vectors: bytes) -> int:
    """How many blocks token vectors take."""
    return -(-len(vectors) // BLOCK_BYTES)


def join_vectors(blocks: Sequence[str]) -> bytes:
    """The bytes of token vectors, given the data of their blocks in order."""
    return b"".join(pybase64.b64decode(block, validate=True) for block in blocks)


def split_text(text: str) -> list[str]:
    """Pieces of at most MAX_VARCHAR bytes of UTF-8, cut between characters; one piece at least."""
    data = text.encode()
    pieces = []
    start = 0
    while len(data) - start > MAX_VARCHAR:
        end = start + MAX_VARCHAR
        while data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        pieces.append(data[start:end].decode())
        start = end
    return [*pieces, data[start:].decode()]


def orphans(blocks: Sequence[str], rows: Mapping[str, Row]) -> list[str]:
    """The blocks that no row names; `rows` holds the rows of all the documents in question."""
    named = {key for row in rows.values() for key in BlockKeys.of(row).all()}
    return [key for key in blocks if key not in named]


def block_row(key: str, data: str) -> Row:
    """A row of the blocks' collection."""
    return {KEY: key, "shard": key[0], "data": data, "unused": [0.0, 0.0]}
