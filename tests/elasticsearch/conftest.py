"""Indexes on a real node, made once a module where tests only read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from elasticsearch import Elasticsearch

from m3plugins import M3Encoder
from m3plugins_elasticsearch import ElasticsearchHybridIndex

Create = Callable[..., ElasticsearchHybridIndex]


@pytest.fixture(scope="module")
def make(encoder: M3Encoder, es_url: str) -> Iterator[Create]:
    """Makes indexes of this module's own, and drops them at its end."""
    made: list[ElasticsearchHybridIndex] = []

    def new(name: str | None = None, **options: object) -> ElasticsearchHybridIndex:
        name = name or f"m3-test-{uuid.uuid4().hex}"
        made.append(ElasticsearchHybridIndex.create(name, **{"encoder": encoder, "uri": es_url, **options}))
        return made[-1]

    yield new
    with Elasticsearch(es_url) as client:
        for index in made:
            index.close()
            client.indices.delete(index=index.name, ignore_unavailable=True)


@pytest.fixture
def reopen(encoder: M3Encoder, es_url: str) -> Create:
    """Opens an index by its name."""
    return lambda name, **options: ElasticsearchHybridIndex.open(name, **{"encoder": encoder, "uri": es_url, **options})
