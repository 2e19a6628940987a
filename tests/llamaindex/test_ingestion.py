"""One forward pass a text through LlamaIndex' own ways in: the index, its async twin, and the pipeline."""

from pathlib import Path

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.embeddings.m3plugins import M3Embedding
from llama_index.vector_stores.m3plugins import M3VectorStore, StoreEmbedding

from tests.llamaindex.conftest import Passes
from tests.tiny import SENTENCES

SPLIT = TokenTextSplitter(chunk_size=48, chunk_overlap=0)


def documents() -> list[Document]:
    return [
        Document(id_=f"doc-{i}", text=f"{sentence} {sentence[::-1]}", metadata={"file": f"{i}.txt"})
        for i, sentence in enumerate(SENTENCES[:6])
    ]


def once_each(passes: Passes, nodes: int) -> bool:
    return set(passes.values()) == {1} and len(passes) == nodes


def encodes_what_it_says(store: M3VectorStore) -> bool:
    """The stored documents' contents are the EMBED texts of the nodes they came from, metadata and all."""
    contents = {document.id: document.content for document in store.client.scan()}
    return contents == {node.node_id: node.get_content(MetadataMode.EMBED) for node in store.get_nodes()}


def test_an_index_of_nodes(store: M3VectorStore, nodes: list[TextNode], passes: Passes):
    storage = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex(nodes, storage_context=storage, embed_model=StoreEmbedding())
    assert once_each(passes, len(nodes)) and store.client.count() == len(nodes)
    assert encodes_what_it_says(store)


def test_llama_indexs_own_mock_embedding_is_as_cheap(store: M3VectorStore, nodes: list[TextNode], passes: Passes):
    storage = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex(nodes, storage_context=storage, embed_model=MockEmbedding(embed_dim=1))
    assert once_each(passes, len(nodes))


def test_a_dense_embedding_beside_it_is_a_second_pass(memory: M3VectorStore, nodes: list[TextNode], passes: Passes):
    storage = StorageContext.from_defaults(vector_store=memory)
    memory.clear()
    VectorStoreIndex(nodes, storage_context=storage, embed_model=M3Embedding(encoder=memory.client.encoder))
    assert passes.total() == 2 * len(nodes)


def test_the_stores_own_index_inserts_and_deletes(store: M3VectorStore, nodes: list[TextNode], passes: Passes):
    index = store.as_index()
    index.insert_nodes(nodes)
    assert once_each(passes, len(nodes))
    index.insert_nodes(nodes)
    assert once_each(passes, len(nodes)), "unchanged nodes are not encoded again"
    index.delete_ref_doc("doc-0")
    index.delete_nodes(["node-11"])
    assert {node.node_id for node in store.get_nodes()} == {f"node-{i}" for i in range(2, 11)}


async def test_the_stores_own_index_does_so_asynchronously(store: M3VectorStore, nodes: list[TextNode], passes: Passes):
    index = store.as_index()
    await index.ainsert_nodes(nodes)
    assert once_each(passes, len(nodes))
    await index.adelete_ref_doc("doc-0")
    assert len(await index.as_retriever(similarity_top_k=20).aretrieve("a fox")) == len(nodes) - 2


def test_documents_are_split_and_their_metadata_encoded(store: M3VectorStore, passes: Passes):
    index = store.as_index(transformations=[SPLIT])
    for document in documents():
        index.insert(document)
    assert once_each(passes, store.client.count()) and encodes_what_it_says(store)
    assert store.client.count() > len(documents())
    index.update_ref_doc(Document(id_="doc-0", text="Something else."))
    assert [node.text for node in store.get_nodes() if node.ref_doc_id == "doc-0"] == ["Something else."]


def pipeline(store: M3VectorStore, **options: object) -> IngestionPipeline:
    return IngestionPipeline(transformations=[SPLIT, StoreEmbedding()], vector_store=store, **options)


def test_a_pipeline_run_again_encodes_nothing(store: M3VectorStore, passes: Passes):
    run = pipeline(store)
    ran = run.run(documents=documents())
    assert once_each(passes, len(ran)) and store.client.count() == len(ran)
    again = run.run(documents=documents())
    assert once_each(passes, len(ran)), "the cache gives the nodes back, the index knows them"
    assert [node.node_id for node in again] == [node.node_id for node in ran]


async def test_an_async_pipeline_does_the_same(store: M3VectorStore, passes: Passes):
    run = pipeline(store)
    ran = await run.arun(documents=documents())
    await run.arun(documents=documents())
    assert once_each(passes, len(ran))


@pytest.mark.parametrize("strategy", [DocstoreStrategy.UPSERTS, DocstoreStrategy.UPSERTS_AND_DELETE])
def test_a_docstore_makes_only_what_changed_anew(store: M3VectorStore, passes: Passes, strategy: DocstoreStrategy):
    run = pipeline(store, docstore=SimpleDocumentStore(), docstore_strategy=strategy, disable_cache=True)
    run.run(documents=documents())
    before = {node.node_id: node.ref_doc_id for node in store.get_nodes()}
    passes.clear()

    changed = documents()[1:]  # the first is gone
    changed[0] = Document(id_="doc-1", text="Something else.", metadata={"file": "1.txt"})
    (node,) = run.run(documents=changed)
    assert once_each(passes, 1) and node.ref_doc_id == "doc-1"
    gone = {"doc-1"} if strategy == DocstoreStrategy.UPSERTS else {"doc-0", "doc-1"}
    kept = {i for i, source in before.items() if source not in gone}
    assert {stored.node_id for stored in store.get_nodes()} == {*kept, node.node_id}


def test_documents_that_are_not_split_are_replaced_and_deleted_too(store: M3VectorStore):
    run = IngestionPipeline(
        transformations=[StoreEmbedding()],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    run.run(documents=documents()[:2])
    run.run(documents=[Document(id_="doc-1", text="Something else.")])
    (node,) = store.get_nodes()
    assert (node.node_id, node.text) == ("doc-1", "Something else.")


def test_a_cached_pipeline_of_embeddings_encodes_nothing_again_even_from_disk(
    checkpoint: Path, passes: Passes, tmp_path: Path
):
    def run() -> IngestionPipeline:
        return IngestionPipeline(transformations=[SPLIT, M3Embedding(model=str(checkpoint))])

    first = run()
    ran = first.run(documents=documents())
    first.persist(str(tmp_path))
    assert once_each(passes, len(ran))
    second = run()
    second.load(str(tmp_path))
    second.transformations[1].encoder.memo.clear()
    assert [node.embedding for node in second.run(documents=documents())] == [node.embedding for node in ran]
    assert once_each(passes, len(ran))


def test_the_cache_knows_another_model_or_option(checkpoint: Path, passes: Passes):
    run = IngestionPipeline(transformations=[SPLIT, M3Embedding(model=str(checkpoint))])
    ran = run.run(documents=documents())
    run.transformations[1] = M3Embedding(model=str(checkpoint), document_max_length=8)
    cut = run.run(documents=documents())
    assert [node.embedding for node in cut] != [node.embedding for node in ran]
