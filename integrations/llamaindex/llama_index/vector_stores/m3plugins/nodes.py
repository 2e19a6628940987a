"""LlamaIndex nodes as documents of an index, and back."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from string import Formatter
from typing import Any

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.schema import BaseNode, IndexNode, MetadataMode, Node, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.schema import Document as LlamaDocument
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
_TYPES: Mapping[str, type[BaseNode]] = {kind.get_type(): kind for kind in (TextNode, LlamaDocument, IndexNode, Node)}
_MORE = ("image_resource", "audio_resource", "video_resource", "image", "image_path", "image_url", "obj")
"""Fields of nodes besides text: files, addresses and other nodes, which nobody is to be given by a stored text."""
_TEMPLATES = {"text_template": {"content", "metadata_str"}, "metadata_template": {"key", "value"}}


def to_document(node: BaseNode) -> Document:
    """Makes the document that is indexed of a node; its content, which is encoded, is the EMBED text, stripped.

    Raises:
        ValueError: If the metadata have a reserved field, or the node cannot be written as JSON, or is not text alone.
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
    if fault := _fault(node.get_type(), data):
        msg = f"node {node.node_id} {fault}"
        raise ValueError(msg)
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
    """Restores the node of a document, all of it but its embedding, in copies.

    A document that came to the index another way, or whose stored node is not one that `to_document` makes of this
    document, becomes a `TextNode` whose EMBED text is the document's content.
    """
    metadata = {name: copy.deepcopy(value) for name, value in document.metadata.items() if name not in _RESERVED}
    if NODE in document.metadata and (node := _stored_node(document, metadata)):
        return node
    source = NodeRelationship.SOURCE
    return TextNode(
        id_=document.id,
        text=document.content,
        metadata=metadata,
        excluded_embed_metadata_keys=list(metadata),
        relationships={source: RelatedNodeInfo(node_id=document.parent_id)} if document.parent_id else {},
    )


def _stored_node(document: Document, metadata: dict[str, Any]) -> BaseNode | None:
    """The node that a document's metadata tell of; None if they tell of none, or of another document's."""
    try:
        stored = json.loads(document.metadata[NODE])
        kind, data, text = stored[TYPE_KEY], stored[DATA_KEY], stored.get(_TEXT, document.text)
        if _fault(kind, data):
            return None
        data = {**data, "metadata": metadata}
        if data.get("text_resource"):
            data["text_resource"] = {**data["text_resource"], _TEXT: text}
        elif "text_resource" not in data:
            data[_TEXT] = text
        node = _TYPES[kind].from_dict(data)
        own = (node.node_id, node.ref_doc_id or node.node_id) == (document.id, document.parent_id)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):  # anybody can store anything there
        return None
    return node if own else None


def _fault(kind: str, data: Mapping[str, Any]) -> str:
    """Says why a node is not kept; "" for text whose templates only say where that and its metadata go."""
    more = [name for name in _MORE if data.get(name)]
    more += [f"text_resource.{name}" for name in ("data", "path", "url") if (data.get("text_resource") or {}).get(name)]
    if kind not in _TYPES or more:
        names = ", ".join(more) or data.get("class_name")
        return f"must be of text alone to be stored, got {names}; objects go into the object_map of a retriever"
    for template, known in _TEMPLATES.items():
        parts = list(Formatter().parse(data.get(template, "")))
        fields = [name for _, name, _, _ in parts if name is not None]
        if set(fields) - known or len(fields) > len(known) or any(spec or how for _, _, spec, how in parts):
            allowed = " and ".join(f"{{{name}}}" for name in sorted(known))
            return f"must have a {template} of {allowed} alone, got {data[template]!r:.80}"
    return ""


def annotated(node: BaseNode, name: str, value: object) -> BaseNode:
    """Copies a node, with one more metadata field, which neither the embedding model nor the LLM gets to read."""
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
