"""Copies into Elasticsearch and out of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch

from m3plugins import Document, InMemoryHybridIndex, M3Encoder
from m3plugins.cli.app import run
from m3plugins.indexing import copy as copying
from m3plugins.indexing.copy import copy
from m3plugins_elasticsearch import AttachedIndex, ElasticsearchHybridIndex
from m3plugins_milvus import MilvusHybridIndex
from tests.core.cli.engine_suite import write
from tests.core.indexing.copying_suite import DOCUMENTS, CopyingSuite, Make, assert_same
from tests.elasticsearch.test_attached import FIELDS, enrich
from tests.elasticsearch.test_attached import make as make_theirs
from tests.tiny import SENTENCES, random_documents

pytestmark = pytest.mark.elasticsearch9


@pytest.fixture
def in_memory(encoder: M3Encoder) -> Make:
    return lambda **options: InMemoryHybridIndex(**{"encoder": encoder, **options})


@pytest.fixture
def in_elasticsearch(encoder: M3Encoder, es_url: str, es_name: str) -> Iterator[Make]:
    made = []

    def make(**options):
        options = {"encoder": encoder, "uri": es_url, **options}
        made.append(ElasticsearchHybridIndex.create(f"{es_name}-{uuid.uuid4().hex}", **options))
        return made[-1]

    yield make
    for index in made:
        index.close()


@pytest.fixture
def in_milvus(encoder: M3Encoder, tmp_path: Path) -> Iterator[Make]:
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        yield lambda: index


class TestIntoElasticsearch(CopyingSuite):
    @pytest.fixture
    def make_source(self, in_memory):
        return in_memory

    @pytest.fixture
    def make_target(self, in_elasticsearch):
        return in_elasticsearch


class TestFromElasticsearch(CopyingSuite):
    @pytest.fixture
    def make_source(self, in_elasticsearch):
        return in_elasticsearch

    @pytest.fixture
    def make_target(self, in_memory):
        return in_memory


def test_documents_that_lost_their_embeddings_are_named_and_the_others_are_copied(in_elasticsearch, in_memory, es_url):
    """A partial update by somebody else loses what the source does not hold."""
    source, target = in_elasticsearch(), in_memory()
    source.upsert(DOCUMENTS)
    with closing(Elasticsearch(es_url)) as client:
        for i in ("doc-3", "doc-7"):
            client.update(index=source.name, id=i, doc={"title": "another"}, refresh=True)
    report = copy(source, target)
    assert (report.written, sorted(failure.id for failure in report.failed)) == (68, ["doc-3", "doc-7"])
    assert all("delete it and index it again" in failure.reason for failure in report.failed)


def test_from_milvus_lite_and_back(in_milvus, in_elasticsearch):
    lite, ours = in_milvus(), in_elasticsearch()
    lite.upsert(DOCUMENTS)
    assert copy(lite, ours).written == 70
    assert_same(lite, ours)
    lite.delete([document.id for document in DOCUMENTS[:30]])
    assert copy(ours, lite).written == 30
    assert_same(ours, lite)


def test_embeddings_that_no_search_sees_yet_come_with_the_next_run(in_elasticsearch, in_memory, encoder):
    """Their digest is read as it is now, and of embeddings what was visible last: the two do not belong together."""
    source, target = in_elasticsearch(refresh=False, settings={"refresh_interval": -1}), in_memory()
    rows, documents = encoder.encode_documents(SENTENCES[:4]), [Document(id=i, text="fox") for i in "ab"]
    source.upsert(documents, embeddings=rows[:2])
    source.writer.show()
    source.upsert(documents[:1], embeddings=rows[2])
    report = copy(source, target)
    assert (report.written, report.failed) == (1, [("a", copying.REPLACED)])
    source.writer.show()
    assert copy(source, target).written == 1
    assert_same(source, target)


@pytest.mark.parametrize("codec", ["float16", "binary"])
def test_into_another_codec(in_elasticsearch, codec):
    source, target = in_elasticsearch(), in_elasticsearch(codec=codec, dense_index="flat", bm25="standard")
    source.upsert(DOCUMENTS[:10])
    assert copy(source, target).written == 10
    if codec == "float16":
        assert_same(source, target)
    assert {d.id for d in target.scan({"match": {"content": "fox"}})} <= {d.id for d in DOCUMENTS[:10]}


def test_documents_that_elasticsearch_cannot_keep_are_named(in_memory, in_elasticsearch):
    source, target = in_memory(), in_elasticsearch()
    odd = [Document(id="x" * 513, text="long id"), Document(id="n", text="fox", metadata={"n": 2**70})]
    source.upsert([*odd, DOCUMENTS[0]])
    report = copy(source, target)
    assert report.written == 1 and {failure.id for failure in report.failed} == {document.id for document in odd}


def test_the_verb_copies_and_shows_how_far_it_is_as_the_verb_that_indexes_does(
    checkpoint, es_url, es_name, tmp_path, monkeypatch, capsys
):
    corpus = write(tmp_path / "corpus.jsonl", SENTENCES)
    model, count = ["--model", str(checkpoint)], len(SENTENCES)
    here = ["--engine", "elasticsearch", "--uri", es_url]
    origin = ["--from", "elasticsearch", "--from-uri", es_url, "--from-collection", es_name]
    index = ["index", str(corpus), *here, "--collection", es_name, *model]
    copy_ = ["copy", *origin, *here, "--collection", f"{es_name}-2", *model]
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    for verb in (index, copy_):
        assert run(verb) == 0
        err = capsys.readouterr().err
        assert f"{count}/{count}" in err and "docs/s" in err
    monkeypatch.delenv("FORCE_COLOR")
    assert run([*copy_, "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["unchanged"], json.loads(out)["documents"], err) == (count, count, "")


def test_what_someone_else_writes_can_be_copied_from_and_not_to(in_elasticsearch, encoder, es_url, es_name):
    """What is not enriched as it is now is left out, and comes once it is."""
    with closing(Elasticsearch(es_url)) as client:
        make_theirs(client, f"{es_name}-theirs", random_documents(6))
        with AttachedIndex.attach(f"{es_name}-theirs", encoder=encoder, uri=es_url, fields=FIELDS) as theirs:
            enrich(theirs, {"doc-1", "doc-2"})
            client.update(index=theirs.name, id="doc-1", doc={"article": {"body": "edited"}}, refresh=True)
            target = in_elasticsearch()
            assert copy(theirs, target).written == 1
            enrich(theirs)
            assert copy(theirs, target).written == 5
            assert_same(theirs, target)
            target.upsert([DOCUMENTS[0]])
            with pytest.raises(ValueError, match="are their owner's"):
                copy(target, theirs)
