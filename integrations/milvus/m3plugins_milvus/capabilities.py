"""What the other side can do, by the version it states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from m3plugins_milvus.schema import LITE_DENSE_INDEXES

LITE_MINIMUM = (3, 2, 2)
"""Milvus Lite 3.0 to 3.2.1 ranks sparse inner products as if they were BM25."""
SERVER_MINIMUM = (2, 5)
"""The first with nullable fields."""
CURRENT = (3, 0, 0)
"""What a server that states no version is taken for."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What Milvus Lite or a server can do; `capabilities` makes one.

    Attributes:
        version: As far as it is stated: Zilliz Cloud names two parts.
        lite: Whether it is Milvus Lite, opened from a path or served at a URL.
        write: The call that replaces a row whole. A server's insert keeps the old row as well; Lite's
            upsert keeps the old row's dynamic fields.
        dense_indexes: Types a dense index may have; None if that is for the server to say.
    """

    version: tuple[int, ...]
    lite: bool
    write: Literal["insert", "upsert"]
    dense_indexes: tuple[str, ...] | None

    @property
    def fault(self) -> str | None:
        """Says why our collections cannot be there, or would be searched wrong; None if they can."""
        name, minimum, why = (
            ("Milvus Lite", LITE_MINIMUM, "to rank sparse vectors right; upgrade milvus-lite")
            if self.lite
            else ("Milvus", SERVER_MINIMUM, "to have nullable fields; upgrade the server")
        )
        if self.version >= minimum:
            return None
        return f"{name} must be {_dotted(minimum)} or later {why.replace(';', f', got {_dotted(self.version)};')}"


def capabilities(stated: str) -> Capabilities:
    """What `get_server_version()` stands for.

    Example:
        >>> capabilities("v2.5.13").write, capabilities("milvus_lite-3.2.2").write
        ('upsert', 'insert')
        >>> capabilities("Zilliz Cloud Vector Database(Compatible with Milvus 2.5)").version
        (2, 5)
    """
    lite = stated.startswith("milvus_lite")
    found = re.search(r"\d+(\.\d+)+", stated)
    version = tuple(map(int, found[0].split("."))) if found else CURRENT
    return Capabilities(
        version=version,
        lite=lite,
        write="insert" if lite else "upsert",
        dense_indexes=LITE_DENSE_INDEXES if lite else None,
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
