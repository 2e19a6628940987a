"""LangChain's `index()` keeps the store in step with a source."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import VectorStore

from langchain_m3plugins import M3VectorStore
from m3plugins import HybridIndex, HybridRetriever

OPTIONS = {"source_id_key": "source", "key_encoder": "sha256"}


@pytest.fixture
def store(empty: HybridIndex) -> M3VectorStore:
    return M3VectorStore(HybridRetriever(empty))


@pytest.fixture
def records() -> InMemoryRecordManager:
    records = InMemoryRecordManager(namespace="test")
    records.create_schema()
    return records


def document(text: str, source: str) -> Document:
    return Document(page_content=text, metadata={"source": source})


def texts(store: M3VectorStore) -> list[str]:
    return sorted(document.text for document in store.index.scan())


def counts(added: int = 0, updated: int = 0, skipped: int = 0, deleted: int = 0) -> dict[str, int]:
    return {"num_added": added, "num_updated": updated, "num_skipped": skipped, "num_deleted": deleted}


def test_full_cleanup_follows_the_source(store: VectorStore, records: InMemoryRecordManager):
    fox, dog, cat = (document(f"a {name}", name) for name in ("fox", "dog", "cat"))
    options = {**OPTIONS, "cleanup": "full"}
    assert index([fox, dog], records, store, **options) == counts(added=2)
    assert index([fox, dog], records, store, **options) == counts(skipped=2)
    assert index([fox, cat], records, store, **options) == counts(added=1, skipped=1, deleted=1)
    assert texts(store) == ["a cat", "a fox"]
    assert index([], records, store, **options) == counts(deleted=2)
    assert texts(store) == []


def test_incremental_cleanup_replaces_what_a_source_had(store: VectorStore, records: InMemoryRecordManager):
    options = {**OPTIONS, "cleanup": "incremental", "batch_size": 1}
    index([document("a fox", "1"), document("a dog", "2")], records, store, **options)
    assert index([document("a cat", "1")], records, store, **options) == counts(added=1, deleted=1)
    assert texts(store) == ["a cat", "a dog"]


async def test_it_works_in_async(store: VectorStore, records: InMemoryRecordManager):
    options = {**OPTIONS, "cleanup": "full"}
    assert await aindex([document("a fox", "1")], records, store, **options) == counts(added=1)
    assert await aindex([document("a dog", "1")], records, store, **options) == counts(added=1, deleted=1)
    assert texts(store) == ["a dog"]


def test_a_forced_update_writes_again(store: VectorStore, records: InMemoryRecordManager):
    index([document("a fox", "1")], records, store, **OPTIONS)
    assert index([document("a fox", "1")], records, store, force_update=True, **OPTIONS) == counts(updated=1)
    assert texts(store) == ["a fox"]
