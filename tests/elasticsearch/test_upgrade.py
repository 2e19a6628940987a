"""A cluster of 8.19 with indexes in it, upgraded to 9."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch

from m3plugins import Document, HybridRetriever
from m3plugins.encoding.output import HEADS
from m3plugins_elasticsearch import AttachedIndex, ElasticsearchHybridIndex, Enricher, check_versions
from tests.elasticsearch.node import Node, archive
from tests.tiny import SENTENCES

DOCUMENTS = [Document(id=f"d{n}", text=text, metadata={"n": n}) for n, text in enumerate(SENTENCES)]


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """A running node of 8.19, and one of 9 that is not started yet."""
    old, new = archive(), os.environ.get("M3_TEST_ES9_ZIP")
    if not new or Path(new) == old:
        pytest.skip("needs two distributions: M3_TEST_ES_ZIP of 8.19 and M3_TEST_ES9_ZIP of 9")
    after = Node(Path(new))
    try:
        with Node(old) as before:
            yield before, after
    finally:
        after.stop()


def answers(index, encoder):
    """All that is read of an index: documents, embeddings and the order of hits; and exact scores."""
    query = encoder.encode_queries([SENTENCES[0]])
    stored = {document.id: (document, output.digest()) for document, output in index.scan(with_embeddings=True)}
    hits = [hit.id for hit in HybridRetriever(index).search(SENTENCES[1], k=5)]
    scores = index.score(query, sorted(stored))
    numbers = {(i, head): getattr(scores[i], head) for i in scores for head in HEADS}
    return (stored, index.get(sorted(stored)), hits), numbers


def test_indexes_made_by_8_read_and_are_written_the_same_by_9(nodes, encoder):
    before, after = nodes
    with Elasticsearch(before.url) as client:
        ours = ElasticsearchHybridIndex.create("ours", encoder=encoder, client=client)
        ours.upsert(DOCUMENTS)
        properties = {"body": {"type": "text"}, "theirs": {"type": "dense_vector", "dims": 2}}
        client.indices.create(index="theirs", mappings={"properties": properties})
        for document in DOCUMENTS:
            source = {"body": document.text, "theirs": [1.0, document.metadata["n"]]}
            client.index(index="theirs", id=document.id, document=source)
        attached = AttachedIndex.attach("theirs", encoder=encoder, client=client, fields={"text": "body"})
        assert Enricher(attached).run_once().enriched == len(DOCUMENTS)
        expected = [answers(index, encoder) for index in (ours, attached)]
        client.indices.flush(index="ours,theirs")
    before.kill()
    shutil.copytree(before.folder / "data", after.folder / "data", dirs_exist_ok=True)
    after.start()
    with Elasticsearch(after.url) as client:
        assert check_versions(client).version >= (9,)
        ours = ElasticsearchHybridIndex.open("ours", encoder=encoder, client=client)
        attached = AttachedIndex.attach("theirs", encoder=encoder, client=client)
        for index, (read, scores) in zip((ours, attached), expected, strict=True):
            assert answers(index, encoder) == (read, pytest.approx(scores, rel=1e-5))
        assert Enricher(attached).verify().complete
        assert ours.upsert(DOCUMENTS).unchanged == len(DOCUMENTS)
        assert ours.update_metadata({"d1": {"n": 9}}).written == 1
        assert ours.get(["d1"])[0].metadata == {"n": 9}
        client.update(index="theirs", id="d1", doc={"body": SENTENCES[2]}, refresh=True)
        assert Enricher(attached).run_once().enriched == 1
        again = ours.reembed(encoder, into="ours-2").index
        read, scores = answers(ours, encoder)
        assert answers(again, encoder) == (read, pytest.approx(scores, rel=1e-5))
