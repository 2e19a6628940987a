"""Which clients and clusters go together, and that nothing leans on what a server does by default."""

import pytest
from elasticsearch import AsyncElasticsearch, Elasticsearch, __version__
from elasticsearch._async.client import _base as async_base
from elasticsearch._sync.client import _base as base

from m3plugins import Document
from m3plugins.scoring import sparse_scores
from m3plugins_elasticsearch import (
    AttachedIndex,
    ElasticsearchHybridIndex,
    ElasticsearchIndexError,
    Enricher,
    check_versions,
    lifecycle,
)
from m3plugins_elasticsearch.client import errors
from m3plugins_elasticsearch.mapping import SETTINGS, missing_defaults
from m3plugins_elasticsearch.versions import PAIRS
from tests.tiny import SENTENCES

pytestmark = pytest.mark.elasticsearch9

DOCUMENTS = [Document(id=f"d{number}", text=text, metadata={"n": number}) for number, text in enumerate(SENTENCES)]
NEWER = r"elasticsearch \S+, is newer than the cluster.*: pip install 'elasticsearch<\d+'$"


@pytest.fixture
def client(es_url):
    with Elasticsearch(es_url) as client:
        yield client


@pytest.fixture
def version(client):
    return check_versions(client).version


@pytest.fixture
def too_new(version, monkeypatch):
    """Clients speak as those of the cluster's next major version do."""
    spoken = rf"application/vnd.elasticsearch+\g<1>; compatible-with={version[0] + 1}"
    for module in (base, async_base):
        monkeypatch.setattr(module, "_COMPAT_MIMETYPE_SUB", spoken)


def test_this_pair_is_among_the_tested(version):
    pair = tuple(".".join(map(str, of[:2])) for of in (__version__, version))
    assert pair in PAIRS


@pytest.fixture
def attached(client, encoder, es_name):
    client.indices.create(index=es_name, mappings={"properties": {"body": {"type": "text"}}})
    with AttachedIndex.attach(es_name, encoder=encoder, client=client, fields={"text": "body"}) as index:
        yield index


@pytest.mark.parametrize(
    "connect",
    [
        lambda url, encoder, attached: ElasticsearchHybridIndex.create(f"{attached.name}-2", encoder=encoder, uri=url),
        lambda url, encoder, attached: ElasticsearchHybridIndex.open(f"{attached.name}-2", encoder=encoder, uri=url),
        lambda url, encoder, attached: AttachedIndex.attach(attached.name, encoder=encoder, uri=url),
        lambda url, encoder, attached: Enricher(attached).verify(),
        lambda url, encoder, attached: check_versions(Elasticsearch(url)),
    ],
    ids=["create", "open", "attach", "enricher", "check_versions"],
)
def test_a_client_newer_than_its_cluster_is_named_with_the_fix(connect, es_url, encoder, attached, too_new):
    with pytest.raises(ElasticsearchIndexError, match=NEWER) as caught:
        connect(es_url, encoder, attached)
    assert "\n" not in str(caught.value)


def test_it_is_named_where_the_answer_has_no_body(client, too_new):
    with pytest.raises(ElasticsearchIndexError, match=NEWER), errors("look for it"):
        client.indices.exists(index="docs")


async def test_it_is_named_to_an_async_client(es_url, too_new):
    pytest.importorskip("aiohttp", reason="the client's async half needs aiohttp: pip install 'elasticsearch[async]'")
    async with AsyncElasticsearch(es_url) as client:
        with pytest.raises(ElasticsearchIndexError, match=NEWER), errors("look for it"):
            await client.indices.exists(index="docs")


def settings(client, name):
    return client.indices.get_settings(index=name, flat_settings=True)[name]["settings"]


def test_an_index_of_ours_sets_what_the_server_knows(make, client, version):
    """Some of it from 9.2 on, all of it in 9.5; none in 8.19."""
    told = {name: value for name, value in settings(client, make().name).items() if name in SETTINGS}
    known = SETTINGS if version >= (9, 5) else {}
    assert told == {name: str(value).lower() for name, value in known.items()}


def test_a_users_settings_go_first(make, client, version):
    if version < (9, 5):
        pytest.skip("this server knows none of our settings")
    asked = {"mapping": {"exclude_source_vectors": False}, "index.dense_vector.hnsw_enable_early_termination": True}
    told = settings(client, make(settings=asked).name)
    assert told["index.mapping.exclude_source_vectors"] == "false"
    assert told["index.dense_vector.hnsw_enable_early_termination"] == "true"


@pytest.mark.parametrize(
    "asked",
    [
        {"index.mapping.exclude_source_vectors": False},
        {"mapping.exclude_source_vectors": False},
        {"index": {"mapping": {"exclude_source_vectors": False}}},
        {"mapping": {"exclude_source_vectors": False}},
    ],
)
def test_a_setting_is_a_users_however_it_is_written(asked):
    assert missing_defaults(asked) == {"index.dense_vector.hnsw_enable_early_termination": False}
    assert missing_defaults({"number_of_shards": 1}) == dict(SETTINGS)


def test_a_users_unknown_setting_is_refused_by_its_name(encoder, es_url, es_name, client):
    with pytest.raises(ValueError, match=r"unknown setting \[index\.nonsense\]"):
        ElasticsearchHybridIndex.create(es_name, encoder=encoder, uri=es_url, settings={"nonsense": 1})
    assert not client.indices.exists(index=es_name)


@pytest.mark.parametrize(
    "made", [{}, {"index.mapping.exclude_source_vectors": False}], ids=["the server's defaults", "vectors in source"]
)
def test_an_index_with_other_settings_reads_the_same(make, encoder, monkeypatch, version, made):
    """Such as one made by an older server, or by an older version of ours."""
    if made and version < (9, 5):
        pytest.skip("this server does not know the setting")
    ours = make()
    monkeypatch.setattr(lifecycle, "missing_defaults", lambda settings: dict(made))
    other = make()
    monkeypatch.undo()
    query = encoder.encode_queries([SENTENCES[0]])
    for index in (ours, other):
        index.upsert(DOCUMENTS)
        assert index.update_metadata({"d1": {"n": 9}}).written == 1
    ids = [document.id for document in DOCUMENTS]
    assert other.get(ids) == ours.get(ids)
    assert read(other) == read(ours)
    assert other.score(query, ids) == ours.score(query, ids)
    copied, outputs = zip(*other.scan(with_embeddings=True), strict=True)
    there = make()
    there.upsert(copied, outputs)
    assert read(there) == read(ours)


def read(index):
    """Every document with a digest of its embeddings."""
    return {document.id: (document, output.digest()) for document, output in index.scan(with_embeddings=True)}


@pytest.fixture
def vectors_of_the_owner(client, encoder, es_name):
    """An index whose documents have vectors of their owner's, attached to and enriched."""
    vectors = {"dense": {"type": "dense_vector", "dims": 2}, "sparse": {"type": "sparse_vector"}}
    properties = {"body": {"type": "text"}, "theirs": {"properties": vectors}, "alone": vectors["dense"]}
    client.indices.create(index=es_name, mappings={"properties": properties})
    for number, text in enumerate(SENTENCES):
        theirs = {"dense": [0.5, number], "sparse": {"fox": 0.5}}
        client.index(index=es_name, id=str(number), document={"body": text, "theirs": theirs, "alone": [number, 1.0]})
    with AttachedIndex.attach(es_name, encoder=encoder, client=client, fields={"text": "body"}) as index:
        assert Enricher(index).run_once().enriched == len(SENTENCES)
        yield index


def test_vectors_of_an_owners_are_read_as_any_other_field(vectors_of_the_owner):
    index, expected = vectors_of_the_owner, {"theirs": {"dense": [0.5, 3], "sparse": {"fox": 0.5}}, "alone": [3, 1.0]}
    (got,) = index.get(["3"])
    assert got.metadata == expected
    assert {document.id: document.metadata for document in index.scan()}["3"] == expected
    assert Enricher(index).verify().complete


def test_an_owners_partial_update_keeps_our_vectors_to_the_bit(vectors_of_the_owner, client, encoder):
    index = vectors_of_the_owner
    before, query = read(index), encoder.encode_queries([SENTENCES[0]])
    scores = index.score(query, ["3"])
    client.update(index=index.name, id="3", doc={"views": 7}, refresh=True)
    after = read(index)
    assert after["3"][1] == before["3"][1]
    assert after["3"][0].metadata == {**before["3"][0].metadata, "views": 7}
    assert index.score(query, ["3"]) == scores
    report = Enricher(index).run_once()
    assert (report.enriched, report.annotated) == (0, 1)


def test_a_new_text_replaces_all_token_weights(vectors_of_the_owner, client, encoder):
    """A partial update merges an object's keys with those that are there; ours must not."""
    index = vectors_of_the_owner
    client.update(index=index.name, id="3", doc={"body": "zebra"}, refresh=True)
    Enricher(index).run_once()
    embedded = index.embeddings(["3"])["3"].sparse
    assert embedded[0].indices.tolist() == encoder.encode_documents(["zebra"]).sparse[0].indices.tolist()
    query = encoder.encode_queries([SENTENCES[3]])
    (score,) = index.score(query, ["3"]).values()
    assert score.sparse == pytest.approx(sparse_scores(query.sparse, embedded)[0, 0], rel=1e-6)


def test_doctor_says_which_versions_there_are_and_what_is_wrong(es_url, version, monkeypatch):
    pytest.importorskip("m3plugins.cli.checks", reason="m3 doctor asks engines for checks of their own")
    (alone,) = ElasticsearchHybridIndex.checks()
    assert (alone.status, alone.name) == ("ok", "elasticsearch client")
    assert "8.19 with 9.5" in alone.detail
    client, cluster = ElasticsearchHybridIndex.checks(es_url)
    assert client == alone
    assert cluster.status == "ok" and ".".join(map(str, version)) in cluster.detail
    spoken = rf"application/vnd.elasticsearch+\g<1>; compatible-with={version[0] + 1}"
    monkeypatch.setattr(base, "_COMPAT_MIMETYPE_SUB", spoken)
    _, cluster = ElasticsearchHybridIndex.checks(es_url)
    assert cluster.status == "broken" and "newer than the cluster" in cluster.detail
