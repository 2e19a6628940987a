"""An index that an owner writes to, who knows nothing of M3, and an encoder that tells what it is given."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from elasticsearch import ApiError, Elasticsearch
from elasticsearch.helpers import bulk

from m3plugins import M3Encoder, M3Output
from m3plugins_elasticsearch import AttachedIndex
from m3plugins_elasticsearch.enricher import Enricher, Metrics

FIELDS = {"text": "body", "title": "headline"}
PROPERTIES = {"body": {"type": "text"}, "headline": {"type": "text"}, "views": {"type": "integer"}}
HEADS = ("dense", "sparse", "sparse_weights", "token_vectors")


class Witness(M3Encoder):
    """An encoder that keeps the texts that pass the model.

    Attributes:
        texts: All of them.
        hook: Called with the texts of a call, after they were read from the index and before they are encoded.
    """

    def __init__(self, encoder: M3Encoder) -> None:
        super().__init__(encoder.model, encoder.options, loaded=encoder.warm_up()._load())
        self.texts: list[str] = []
        self.hook: Callable[[list[str]], object] = lambda texts: None

    def iter_documents(self, texts: Iterable[str], **options: Any) -> Iterator[M3Output]:
        texts = list(texts)
        self.hook(texts)
        self.texts += texts
        return super().iter_documents(texts, **options)


@dataclass
class Owner:
    """Writes documents to an index as any application does."""

    client: Elasticsearch
    url: str
    name: str

    def make(self, name: str | None = None, *, shards: int = 1, **body: Any) -> str:
        body = {"mappings": {"properties": PROPERTIES}, **body}
        settings = {"number_of_shards": shards, "number_of_replicas": 0, **body.pop("settings", {})}
        self.client.indices.create(index=name or self.name, settings=settings, **body)
        return name or self.name

    def put(self, id: str, index: str | None = None, **source: Any) -> None:
        self.client.index(index=index or self.name, id=id, document=source)

    def fill(self, count: int, index: str | None = None, first: int = 0, text: str = "the fox number") -> list[str]:
        texts = [f"{text} {number}" for number in range(first, first + count)]
        actions = [{"_id": str(first + number), "body": text, "views": number % 7} for number, text in enumerate(texts)]
        bulk(self.client, actions, index=index or self.name)
        return texts

    def update(self, id: str, **fields: Any) -> None:
        self.client.update(index=self.name, id=id, doc=fields)

    def source(self, id: str) -> dict[str, Any]:
        """The whole document; a newer server leaves out vectors that are not asked for."""
        return dict(self.client.get(index=self.name, id=id, source_includes="*")["_source"])

    def m3(self, id: str) -> dict[str, Any]:
        """What the enricher wrote, with the sparse weights as the object that they are."""
        ours = dict(self.source(id).get("m3") or {})
        if isinstance(ours.get("sparse"), list):
            (ours["sparse"],) = ours["sparse"]
        return ours

    def sources(self) -> dict[str, Any]:
        """All documents, without what the enricher wrote."""
        self.client.indices.refresh(index=self.name)
        hits = self.client.search(index=self.name, size=1000, source={"excludes": ["m3"]})["hits"]["hits"]
        return {hit["_id"]: hit["_source"] for hit in hits}

    def letters(self) -> dict[str, str]:
        """The reasons of the dead letters, by document."""
        place = f"m3-dead-letters.{self.name}"
        self.client.indices.refresh(index=place, ignore_unavailable=True)
        hits = self.client.search(index=place, size=1000, ignore_unavailable=True)["hits"]["hits"]
        return {hit["_source"]["id"]: hit["_source"]["reason"] for hit in hits}

    def ledgers(self) -> list[dict[str, Any]]:
        place = f"m3-enricher.{self.name}"
        self.client.indices.refresh(index=place, ignore_unavailable=True)
        hits = self.client.search(index=place, size=100, ignore_unavailable=True)["hits"]["hits"]
        return [hit["_source"] for hit in hits if hit["_id"].startswith("shard-")]


@contextmanager
def watching(enricher: Enricher) -> Iterator[list[Metrics]]:
    """Lets it watch in a thread; what it tells is in the list."""
    stop, told = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(enricher.watch, stop, told.append)
        try:
            yield told
        finally:
            stop.set()
        running.result()


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Waits until it holds, also for the shard of an index that the enricher has just made."""
    deadline = time.monotonic() + seconds
    while not holds_by_now(holds):
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.05)


def holds_by_now(holds: Callable[[], object]) -> bool:
    """Whether it holds; not yet where a shard has not started."""
    try:
        return bool(holds())
    except ApiError as err:
        if err.status_code != 503:
            raise
        return False


@pytest.fixture
def owner(es_url: str) -> Iterator[Owner]:
    with Elasticsearch(es_url) as client:
        owner = Owner(client, es_url, f"m3-test-{uuid.uuid4().hex[:12]}")
        yield owner
        made = client.indices.get(index=f"{owner.name}*,m3-*.{owner.name}*", expand_wildcards="all")
        for name in made:
            client.indices.delete(index=name)


@pytest.fixture
def articles(owner: Owner) -> Owner:
    """An empty index of one shard, with fields for a text, a title and a number."""
    owner.make()
    return owner


@pytest.fixture
def witness(encoder: M3Encoder) -> Witness:
    return Witness(encoder)


@pytest.fixture
def attach(witness: Witness, owner: Owner) -> Iterator[Callable[..., AttachedIndex]]:
    """Attaches to the owner's index, with an encoder that tells what it is given."""
    made: list[AttachedIndex] = []

    def new(name: str | None = None, **options: Any) -> AttachedIndex:
        made.append(
            AttachedIndex.attach(
                name or owner.name, **{"encoder": witness, "fields": FIELDS, "uri": owner.url, **options}
            )
        )
        return made[-1]

    yield new
    for index in made:
        index.close()


@pytest.fixture
def enricher(articles: Owner, attach: Callable[..., AttachedIndex]) -> Enricher:
    """Of the owner's index."""
    return Enricher(attach(), poll_s=0.1, lease_s=2)
