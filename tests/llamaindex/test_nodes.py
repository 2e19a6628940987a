"""A node comes back from an index as it went in, and what is encoded is its EMBED text."""

import copy
import json
from dataclasses import replace
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
    IndexNode(text="All about foxes.", index_id="foxes"),
]
MORE_THAN_TEXT = [
    Node(id_="n", image_resource=MediaResource(path="/etc/passwd")),
    Node(id_="n", text_resource=MediaResource(text="A fox.", path="/etc/passwd")),
    ImageNode(id_="n", text="A fox.", image_path="/etc/passwd"),
    ImageNode(id_="n", text="A fox."),
    IndexNode(id_="n", text="All about foxes.", index_id="foxes", obj=TextNode(id_="another", text="A secret.")),
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


@pytest.mark.parametrize("node", MORE_THAN_TEXT, ids=lambda node: node.class_name())
def test_only_text_is_stored_and_only_text_is_built_of_what_was_stored_before(node: BaseNode):
    with pytest.raises(ValueError, match="node n must be of text alone to be stored, got "):
        to_document(node)
    stored = json.dumps(doc_to_json(node))
    again = to_node(Document(id="n", text="A fox.", metadata={"_node": stored, "_node_id": "n"}, parent_id="n"))
    assert (type(again), again.node_id, again.get_content()) == (TextNode, "n", "A fox.")


@pytest.mark.parametrize(
    "template", ["{content:>99999999}", "{content.__class__}", "{content[0]}", "{content!r}", "{text}", "{content}" * 9]
)
def test_templates_say_where_the_text_goes_and_nothing_else(template: str):
    node = TextNode(id_="n", text="A fox.", metadata={"file": "a"})
    document = to_document(node)
    node.text_template = template
    with pytest.raises(ValueError, match="node n must have a text_template of {content} and {metadata_str} alone, got"):
        to_document(node)
    forged = json.loads(document.metadata["_node"])
    forged["__data__"]["text_template"] = template
    again = to_node(replace(document, metadata={**document.metadata, "_node": json.dumps(forged)}))
    assert again.get_content(MetadataMode.EMBED) == document.content


def damage(**changes: object) -> str:
    """A stored node of document n, but for these fields of it."""
    stored = json.loads(to_document(TextNode(id_="n", text="A fox.")).metadata["_node"])
    return json.dumps({**stored, "__data__": {**stored["__data__"], **changes}})


JUNK = {
    "not JSON": "{",
    "no object": "[]",
    "null": "null",
    "a number": 7,
    "a nested object": {"a": 1},
    "None": None,
    "empty": "",
    "deep": "[" * 100_000,
    "a long number": "9" * 10_000,
    "no data": json.dumps({"__type__": "1"}),
    "data are a list": json.dumps({"__type__": "1", "__data__": []}),
    "unknown type": json.dumps({"__type__": "9", "__data__": {}}),
    "type of another kind": json.dumps({"__type__": ["1"], "__data__": {}}),
    "legacy fields": json.dumps({"__type__": "1", "__data__": {"extra_info": {}, "text": "forged"}}),
    "another id": damage(id_="victim"),
    "another source": damage(relationships={"1": {"node_id": "victim"}}),
    "relations that are none": damage(relationships=3),
    "several sources": damage(relationships={"1": [{"node_id": "n"}]}),
    "a number for a template": damage(text_template=7),
    "half a template": damage(metadata_template="{key"),
    "excluded keys that are none": damage(excluded_llm_metadata_keys="abc"),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_no_stored_node_keeps_a_reader_from_the_document_or_gives_it_another(junk: object):
    document = Document(id="n", text="A fox.", metadata={"_node": junk, "lang": "en"}, parent_id="n")
    node = to_node(document)
    assert (type(node), node.node_id, node.ref_doc_id) == (TextNode, "n", "n")
    assert node.metadata == {"lang": "en"}
    assert [node.get_content(mode) for mode in (MetadataMode.EMBED, MetadataMode.NONE)] == ["A fox."] * 2


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
