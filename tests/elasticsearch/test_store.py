"""No answer is larger than a client can take, whatever the documents are; a proxy in front of the node weighs them."""

from dataclasses import replace

import numpy as np
import pytest

from m3plugins import Document, M3Output
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins_elasticsearch import ElasticsearchHybridIndex, store
from m3plugins_elasticsearch.field_paths import FieldPaths
from m3plugins_elasticsearch.identity import Identity
from tests.elasticsearch.proxy import Proxy, proxied

pytestmark = pytest.mark.elasticsearch9

LIMIT = 200_000
TOKENS = [*[10] * 60, *[1000] * 8, *[10] * 5, 4000, *[1000] * 3, 2000, *[10] * 30]
IDS = [f"{number:03}" for number in range(len(TOKENS))]


@pytest.fixture(scope="module")
def weighed(es_url):
    """A proxy, and the sizes of what it answered: its path and bytes."""
    answered: list[tuple[str, int]] = []
    with pytest.MonkeyPatch.context() as patch, proxied(es_url) as proxy:
        answer = Proxy.answer

        def weigh(self, method, path, headers, body):
            status, sent, text = answer(self, method, path, headers, body)
            answered.append((path.partition("?")[0], len(text)))
            return status, sent, text

        patch.setattr(Proxy, "answer", weigh)
        yield proxy, answered


@pytest.fixture(scope="module")
def outputs(encoder, embedding) -> list[M3Output]:
    """Embeddings of texts of all these lengths."""
    draw = np.random.default_rng(0)

    def of_length(tokens: int) -> M3Output:
        vectors = draw.standard_normal((tokens, encoder.multi_vector_dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        counts = np.array([tokens], np.int32)
        return replace(embedding, multi_vector=MultiVectorEmbeddings.from_list([vectors]), token_counts=counts)

    return [of_length(tokens) for tokens in TOKENS]


@pytest.fixture(scope="module")
def mixed(make, encoder, outputs, weighed) -> ElasticsearchHybridIndex:
    index = make(codec="float16")
    documents = [Document(id=i, text=i, metadata={"n": int(i)}) for i in IDS]
    assert index.upsert(documents, embeddings=outputs).failed == []
    with ElasticsearchHybridIndex.open(index.name, encoder=encoder, uri=weighed[0].url) as index:
        yield index


READS = {
    "scan": lambda index, query: {d.id: e.digest() for d, e in index.scan(with_embeddings=True)},
    "embeddings": lambda index, query: {i: e.digest() for i, e in index.embeddings(IDS).items()},
    "score": lambda index, query: index.score(query, IDS),
    "new metadata": lambda index, query: index.update_metadata({i: {"turn": np.random.rand()} for i in IDS}).written,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_answers_are_bounded_by_bytes_whatever_the_lengths(mixed, weighed, encoder, monkeypatch, read):
    _, answered = weighed
    query = encoder.encode_queries(["a fox"])
    expected = read(mixed, query)
    monkeypatch.setattr(store, "BYTES_PER_READ", LIMIT)
    answered.clear()
    assert read(mixed, query) == expected
    sizes = sorted(size for path, size in answered if path.endswith("search"))
    one_alone = TOKENS.index(4000), 4000 * encoder.multi_vector_dim * 2 * 4 / 3
    assert one_alone[1] < sizes[-1] < 1.2 * one_alone[1]
    assert LIMIT / 2 < sizes[-2] < 1.2 * LIMIT


def test_short_documents_are_read_many_at_a_time(mixed, weighed):
    _, answered = weighed
    answered.clear()
    assert len(mixed.embeddings(IDS)) == len(IDS)
    assert len([path for path, _ in answered if path == "/_msearch"]) == 1 + -(-len(IDS) // store.EMBEDDINGS_PER_READ)


def test_the_longest_documents_of_bge_m3_are_read_one_by_one():
    widths = {"dim": 1024, "multi_vector_dim": 1024, "vocab_size": 250_002, "document_max_length": 8192}
    identity = Identity(fingerprint="f", settings={}, codec="float16", **widths)
    size = store.Store(None, "docs", identity, FieldPaths()).size_of({"token_count": [8192]})
    assert size <= store.BYTES_PER_READ < 2 * size
