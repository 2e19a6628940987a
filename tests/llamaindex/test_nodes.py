"""A node comes back from an index as it went in, and what is encoded is its EMBED text."""

import copy
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc
from llama_index.vector_stores.m3plugins import M3VectorStore
from llama_index.vector_stores.m3plugins.nodes import annotated, to_document, to_node

from m3plugins import Document

RELATIONSHIPS = {
    NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"file": "a.txt"}, hash="h"),
    NodeRelationship.PREVIOUS: RelatedNodeInfo(node_id="before"),
    NodeRelationship.CHILD: [RelatedNodeInfo(node_id="one"), RelatedNodeInfo(node_id="two")],
}
METADATA = {"file": "a.txt", "year": 2021, "ratio": 1.0, "draft": True, "tags": ["x", "y"], "none": None, "empty": []}
DEFAULT = "{metadata_str}\n\n{content}"
TEMPLATES = [DEFAULT, "{metadata_str} | {content}", "{content}\n\n{metadata_str}", "[{metadata_str}]\n{content}\n-", ""]

NODES = [
    TextNode(text="The fox."),
    TextNode(text=""),
    TextNode(text="  The fox, indented.\n\n", metadata=METADATA),
    TextNode(
        id_="full",
        text="The fox jumps.",
        metadata=METADATA,
        relationships=RELATIONSHIPS,
        excluded_embed_metadata_keys=["year", "none"],
        excluded_llm_metadata_keys=["file"],
        metadata_template="{key}={value}",
        metadata_separator="; ",
        start_char_idx=3,
        end_char_idx=17,
        mimetype="text/markdown",
    ),
    *(TextNode(text="The fox jumps.", metadata={"file": "a"}, text_template=template) for template in TEMPLATES),
    LlamaDocument(text="The fox jumps.", metadata=METADATA, id_="doc"),
    Node(text_resource=MediaResource(text="The fox.", mimetype="text/plain"), metadata={"file": "a"}),
    Node(image_resource=MediaResource(url="https://example.org/fox.png")),
    ImageNode(text="A fox.", image_url="https://example.org/fox.png"),
    IndexNode(text="All about foxes.", index_id="foxes"),
]


def kept(node: BaseNode) -> BaseNode:
    """What LlamaIndex' own document store gives back: all of the node (before 0.14.10 without its own separator)."""
    return json_to_doc(doc_to_json(node))


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.class_name())
def test_a_node_comes_back_complete(node: BaseNode):
    again = to_node(to_document(node))
    assert type(again) is type(node)
    assert again.to_dict() == kept(node).to_dict()
    assert (again.hash, again.ref_doc_id) == (node.hash, node.ref_doc_id)
    for mode in MetadataMode:
        assert again.get_content(mode) == kept(node).get_content(mode)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.class_name())
def test_what_is_encoded_is_the_embed_text(node: BaseNode):
    assert to_document(node).content == node.get_content(MetadataMode.EMBED).strip()


texts = st.text(st.sampled_from(" \nab:{}"), max_size=12)


@given(
    text=texts,
    metadata=st.dictionaries(st.text("ab", min_size=1), texts | st.integers(), max_size=3),
    template=st.sampled_from(TEMPLATES) | st.text("ab \n").map(lambda t: f"{{content}}{t}{{metadata_str}}"),
    excluded=st.lists(st.text("ab", min_size=1, max_size=1)),
)
def test_any_text_and_template_comes_back_and_is_encoded_to_the_letter(
    text: str, metadata: dict[str, object], template: str, excluded: list[str]
):
    node = TextNode(text=text, metadata=metadata, text_template=template, excluded_embed_metadata_keys=excluded)
    document = to_document(node)
    assert document.content == node.get_content(MetadataMode.EMBED).strip()
    assert to_node(document).to_dict() == node.to_dict()


def test_an_index_gives_nodes_back_complete(store: M3VectorStore):
    store.add(NODES)
    for node in NODES:
        (again,) = store.get_nodes([node.node_id])
        assert again.to_dict() == kept(node).to_dict()
        assert list(again.metadata) == list(node.metadata), "their order is in the EMBED text"
        assert again.hash == node.hash


def test_the_text_of_the_document_is_the_bare_text():
    node = TextNode(text="The fox.", metadata={"file": "a.txt"})
    assert (to_document(node).title, to_document(node).text) == ("file: a.txt\n", "The fox.")


def test_nothing_of_the_callers_is_changed_or_shared():
    node = TextNode(text="The fox.", metadata={"tags": ["x"]}, embedding=[1.0])
    before = copy.deepcopy(node)
    document = to_document(node)
    assert node == before
    to_node(document).metadata["tags"].append("y")
    assert document.metadata["tags"] == ["x"] == node.metadata["tags"]


def test_metadata_become_json():
    node = TextNode(text="The fox.", metadata={"day": date(2021, 5, 1), "pair": (1, 2)})
    assert to_node(to_document(node)).metadata == {"day": "2021-05-01", "pair": [1, 2]}


def test_metadata_that_are_not_json_are_refused():
    with pytest.raises(ValueError, match="node n cannot be written as JSON: .*object"):
        to_document(TextNode(id_="n", text="", metadata={"thing": object()}))


@pytest.mark.parametrize("field", ["_node", "_node_id", "_ref_doc_id"])
def test_reserved_metadata_are_refused(field: str):
    with pytest.raises(ValueError, match=f"reserved, node n has {field}"):
        to_document(TextNode(id_="n", text="", metadata={field: 1}))


def test_a_document_of_another_origin_is_a_node_of_its_content():
    document = Document(id="a", title="Fox", text="It jumps.", metadata={"lang": "en"}, parent_id="p")
    node = to_node(document)
    assert node.get_content(MetadataMode.EMBED) == document.content
    assert (node.node_id, node.ref_doc_id, node.metadata) == ("a", "p", {"lang": "en"})
    assert to_node(Document(id="a", text="")).ref_doc_id is None


def test_an_annotation_is_for_nobody_but_the_caller():
    node = TextNode(text="The fox.", metadata={"file": "a"})
    noted = annotated(node, "note", 1.0)
    assert noted.metadata == {"file": "a", "note": 1.0} and node.metadata == {"file": "a"}
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert noted.get_content(mode) == node.get_content(mode)
