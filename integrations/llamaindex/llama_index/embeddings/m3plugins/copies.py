"""Copies of nodes that share nothing which a caller may change."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from llama_index.core.schema import BaseNode

Node = TypeVar("Node", bound=BaseNode)


def copied(node: Node, **update: Any) -> Node:
    """Copies a node, with metadata and lists of its own, and these fields in place of the old ones."""
    own = {
        "metadata": copy.deepcopy(node.metadata),
        "excluded_embed_metadata_keys": list(node.excluded_embed_metadata_keys),
        "excluded_llm_metadata_keys": list(node.excluded_llm_metadata_keys),
        "relationships": dict(node.relationships),
    }
    return node.model_copy(update={**own, **update})
