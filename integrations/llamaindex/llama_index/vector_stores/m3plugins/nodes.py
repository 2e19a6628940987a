"""LlamaIndex nodes as documents of an index, and back."""

from __future__ import annotations

import copy
import json
from typing import Any

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore.utils import json_to_doc
from llama_index.embeddings.m3plugins.copies import copied
from pydantic_core import to_jsonable_python

from m3plugins import Document

NODE = "_node"
"""The metadata field that holds the rest of the node: its JSON, less its metadata and, mostly, its text."""
NODE_ID = "_node_id"
REF_DOC_ID = "_ref_doc_id"
"""The id of the node's source document; the node's own where it has none."""
_RESERVED = (NODE, NODE_ID, REF_DOC_ID)
_TEXT = "text"


def to_document(node: BaseNode) -> Document:
    """What is indexed of a node. Its content, which is encoded, is the node's EMBED text, stripped.

    Raises:
        ValueError: If the metadata have a reserved field, or the node cannot be written as JSON.
    """
    if taken := sorted(node.metadata.keys() & set(_RESERVED)):
        msg = f"the metadata fields {', '.join(_RESERVED)} are reserved, node {node.node_id} has {', '.join(taken)}"
        raise ValueError(msg)
    try:
        metadata = to_jsonable_python(node.metadata)
        data = node.model_dump(mode="json", exclude={"embedding", "metadata", _TEXT})
    except ValueError as err:
        msg = f"node {node.node_id} cannot be written as JSON: {err}"
        raise ValueError(msg) from err
    if data.get("text_resource"):
        del data["text_resource"][_TEXT]
    stored = {TYPE_KEY: node.get_type(), DATA_KEY: data}

    content, text = node.get_content(MetadataMode.EMBED).strip(), node.get_content(MetadataMode.NONE)
    title = _title(content, text)
    if title is None:  # another template than metadata first, then the text
        stored[_TEXT] = text
        title, text = "", content
    source = node.ref_doc_id or node.node_id
    reserved = {NODE: json.dumps(stored, ensure_ascii=False), NODE_ID: node.node_id, REF_DOC_ID: source}
    return Document(id=node.node_id, text=text, title=title, metadata={**metadata, **reserved}, parent_id=source)


def to_node(document: Document) -> BaseNode:
    """The node of a document: all of it but its embedding, in copies.

    A document that came to the index another way becomes a `TextNode` whose EMBED text is the document's content.
    """
    metadata = {name: copy.deepcopy(value) for name, value in document.metadata.items() if name not in _RESERVED}
    if NODE not in document.metadata:
        source = NodeRelationship.SOURCE
        return TextNode(
            id_=document.id,
            text=document.content,
            metadata=metadata,
            excluded_embed_metadata_keys=list(metadata),
            relationships={source: RelatedNodeInfo(node_id=document.parent_id)} if document.parent_id else {},
        )
    stored: dict[str, Any] = json.loads(document.metadata[NODE])
    data, text = stored[DATA_KEY], stored.get(_TEXT, document.text)
    data["metadata"] = metadata
    if data.get("text_resource"):
        data["text_resource"][_TEXT] = text
    elif "text_resource" not in data:
        data[_TEXT] = text
    return json_to_doc(stored)


def annotated(node: BaseNode, name: str, value: object) -> BaseNode:
    """A copy with one more metadata field, which neither the embedding model nor the LLM gets to read."""
    own = copied(node)
    own.metadata[name] = value
    own.excluded_embed_metadata_keys.append(name)
    own.excluded_llm_metadata_keys.append(name)
    return own


def _title(content: str, text: str) -> str | None:
    r"""The title with which a document of this text has this content; None if there is none.

    Example:
        >>> _title("file: a.txt\n\nThe fox.", "The fox."), _title("The fox.", "The fox."), _title("fox: a.txt", "fox")
        ('file: a.txt\n', '', None)
    """
    for title in ("", content.removesuffix(text.rstrip()).removesuffix("\n")):
        if Document(id="", text=text, title=title).content == content:
            return title
    return None
