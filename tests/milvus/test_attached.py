"""Collections that someone else made: by their own schema, filled as users of BGEM3EmbeddingFunction do."""

import asyncio
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymilvus import DataType, Function, FunctionType, MilvusClient

from m3plugins import (
    Document,
    HybridIndex,
    HybridRetriever,
    HybridWeights,
    InMemoryHybridIndex,
    M3Encoder,
    ModelMismatchError,
)
from m3plugins.encoding.backends.torch import TorchBackend
from m3plugins.indexing.copy import copy
from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins.retrieval import explain, filters
from m3plugins_milvus import AttachedIndex, Fields, M3EmbeddingFunction, MilvusHybridIndex
from m3plugins_milvus.attached import table as table_module
from m3plugins_milvus.attached.expressions import literal, to_key
from m3plugins_milvus.attached.fields import VectorIndex
from m3plugins_milvus.attached.rows import _unit, to_vector
from tests.tiny import SENTENCES, random_documents, save_checkpoint

FIELDS = Fields(id="pk", text="body", dense="dv", sparse="sv", parent_id="parent")
INJECTIONS = [
    "zz'] or pk in ['a','b",
    'zz"] or pk != "" or pk in ["',
    'zz"] or id != "',
    '") or 1 == 1 or ("" == "',
    "'",
    '"',
    "\\",
    '\\"',
    "%",
    "{x}",
    "a\nb\r\n",
    "\x00\x01\x1f\x7f",
    "狐🦊",
    "\u2028\ufeff",
    "x" * 65_535,
]
SPARSE = {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return str(tmp_path_factory.mktemp("theirs") / "theirs.db")


@pytest.fixture(scope="module")
def client(uri):
    client = MilvusClient(uri)
    yield client
    client.close()


def make(client, name, dim, *, key=DataType.VARCHAR, dynamic=True, extra=(), metric="IP", sparse=SPARSE, auto_id=False):
    """Their collection, which is not as we would make it."""
    schema = MilvusClient.create_schema(auto_id=auto_id, enable_dynamic_field=dynamic)
    schema.add_field("pk", key, is_primary=True, **({"max_length": 65_535} if key == DataType.VARCHAR else {}))
    schema.add_field("body", DataType.VARCHAR, max_length=2000)
    schema.add_field("dv", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("sv", DataType.SPARSE_FLOAT_VECTOR)
    for field, kind, options in extra:
        schema.add_field(field, kind, **options)
    params = MilvusClient.prepare_index_params()
    params.add_index("dv", index_type="FLAT", metric_type=metric)
    params.add_index("sv", **sparse)
    if any(field == "image" for field, _, _ in extra):
        params.add_index("image", index_type="FLAT", metric_type="L2")
    client.drop_collection(name)
    client.create_collection(name, schema=schema, index_params=params)


def fill(client, name, encoder, documents, **fields):
    out = M3EmbeddingFunction(encoder)([document.text for document in documents])
    rows = [
        {"pk": d.id, "body": d.text, "dv": out["dense"][i], "sv": out["sparse"][[i]], **d.metadata, **fields}
        for i, d in enumerate(documents)
    ]
    if documents and any(d.parent_id for d in documents):
        rows = [row | {"parent": d.parent_id} for row, d in zip(rows, documents, strict=True)]
    client.insert(name, rows)


PARENT = ("parent", DataType.VARCHAR, {"max_length": 65_535, "nullable": True})
YEAR = ("number", DataType.INT64, {})
LANG = ("lang", DataType.VARCHAR, {"max_length": 8, "nullable": True})


@pytest.fixture(scope="module")
def documents():
    return [replace(document, title="") for document in random_documents(60)]


@pytest.fixture(scope="module")
def index(client, uri, encoder, documents):
    """60 documents, to be read only; "even" is a dynamic field."""
    make(client, "theirs", encoder.dim, extra=[PARENT, YEAR, LANG])
    fill(client, "theirs", encoder, documents)
    with AttachedIndex.attach("theirs", encoder=encoder, uri=uri, fields=FIELDS) as index:
        yield index


@pytest.fixture(scope="module")
def scratch(client, uri, encoder):
    make(client, "scratch", encoder.dim, extra=[PARENT])
    with AttachedIndex.attach("scratch", encoder=encoder, uri=uri, fields=FIELDS) as index:
        yield index


@pytest.fixture
def empty(scratch):
    yield scratch
    scratch.delete([document.id for document in scratch.scan()])
    assert scratch.count() == 0


@pytest.fixture(scope="module")
def oracle(encoder, documents):
    index = InMemoryHybridIndex(encoder=encoder, codec=None)
    index.upsert(documents)
    return index


def attach(client, uri, encoder, name="theirs", **options):
    return AttachedIndex.attach(name, **{"encoder": encoder, "uri": uri, "fields": FIELDS, **options})


# Reading


def test_is_a_hybrid_index(index, encoder):
    assert isinstance(index, HybridIndex)
    assert index.encoder is encoder


def test_rows_are_documents(index, documents):
    assert sorted(index.scan(), key=lambda d: d.id) == sorted(documents, key=lambda d: d.id)
    assert index.count() == len(documents)
    assert index.get(["doc-7", "nope", "doc-3"]) == [documents[7], documents[3]]


@pytest.mark.parametrize("question", ["The quick brown fox", "狐 лиса", ""])
@pytest.mark.parametrize("weights", [HybridWeights(), HybridWeights(dense=0, sparse=1, multi_vector=0)])
def test_search_is_that_of_an_index_of_ours(index, oracle, question, weights):
    ours = HybridRetriever(oracle, weights=weights).search(question, 20)
    theirs = HybridRetriever(index, weights=weights).search(question, 20)
    assert [hit.id for hit in theirs] == [hit.id for hit in ours]
    assert [hit.score for hit in theirs] == pytest.approx([hit.score for hit in ours], abs=1e-5)


FILTERS = [
    filters.eq("lang", "en"),
    filters.in_("lang", ["en", "de"]),
    filters.ne("lang", "en"),
    filters.gte("number", 30),
    filters.lt("number", -1),
    filters.eq("number", 3.0),
    filters.eq("number", True),
    filters.in_("number", []),
    filters.eq("even", True),
    filters.exists("even"),
    filters.contains("lang", "e"),
    filters.and_(filters.eq("lang", "en"), filters.gt("number", 10), filters.eq("even", False)),
    filters.or_(filters.eq("lang", "en"), filters.eq("even", True)),
    filters.not_(filters.eq("number", 7)),
    filters.eq("body", "x"),
    filters.and_(),
    filters.or_(),
]


@pytest.mark.parametrize("wanted", FILTERS)
def test_neutral_filters_are_exact(index, oracle, encoder, wanted):
    assert index.count(wanted) == oracle.count(wanted)
    assert {d.id for d in index.scan(wanted)} == {d.id for d in oracle.scan(wanted)}
    query = encoder.encode_queries(["fox"], heads=("dense", "sparse"))
    for k in (3, 100):
        found, expected = index.candidates(query, k, wanted), oracle.candidates(query, k, wanted)
        for head in ("dense", "sparse"):
            assert [hit.id for hit in found[head]] == [hit.id for hit in expected[head]]


@pytest.mark.parametrize("value", INJECTIONS)
def test_values_of_filters_are_never_read_as_expressions(index, value):
    for wanted in (filters.eq("lang", value), filters.in_("lang", [value, value]), filters.exists(value)):
        assert index.count(wanted) == 0


def test_filters_may_be_large(index):
    assert index.count(filters.in_("number", list(range(50_000)))) == 60
    assert index.count(filters.and_(*[filters.gte("number", 30)] * 500)) == 30


def test_native_filters_are_milvus_expressions(index):
    assert index.count('lang == "en" and number < 20') == index.count(
        filters.and_(filters.eq("lang", "en"), filters.lt("number", 20))
    )
    with pytest.raises(ValueError, match="must not be empty"):
        index.count(" ")
    with pytest.raises(TypeError, match="from_dict"):
        index.count({"eq": {"lang": "en"}})


def test_a_native_filter_about_a_dynamic_field_that_no_row_has_warns_once(index):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (index.count("even == true"), index.count('$meta["even"] == true')) == (30, 30)
    with pytest.warns(
        UserWarning, match="no row of 'theirs' has a field 'evn', which the filter names; check its spelling"
    ) as caught:
        assert (index.count("evn == true"), index.count('$meta["evn"] == true')) == (0, 0)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_native_filter_about_a_field_that_cannot_be_is_refused(client, uri, encoder, documents):
    make(client, "fixed", encoder.dim, dynamic=False, extra=[("meta", DataType.JSON, {})])
    fill(client, "fixed", encoder, [replace(documents[1], metadata={}, parent_id=None)], meta={"lang": "en"})
    with attach(client, uri, encoder, "fixed", fields=replace(FIELDS, parent_id=None, metadata="meta")) as fixed:
        assert fixed.count('meta["lang"] == "en"') == 1
        with pytest.raises(ValueError, match=r"""got 'lang', .*; metadata are spelt meta\["lang"\]"""):
            fixed.count('lang == "en"')


def test_ties_are_broken_by_id(empty, encoder):
    same = [encoder.encode_documents(["The same fox"])] * 30
    empty.upsert((Document(id=f"{i:02}", text="The same fox") for i in reversed(range(30))), embeddings=same)
    found = empty.candidates(encoder.encode_queries(["fox"], heads=("dense", "sparse")), 7)
    assert [hit.id for hit in found["sparse"]] == [f"{i:02}" for i in range(7)]
    dense = found["dense"]  # a matrix product may give equal rows other last bits
    assert dense == sorted(dense, key=lambda hit: (-hit.score, hit.id))


@pytest.mark.parametrize("limit", [2, 7])
def test_no_limit_on_rows_shows(index, documents, oracle, encoder, monkeypatch, limit):
    """Milvus returns 16,384 rows at most; here fewer."""
    monkeypatch.setattr(table_module, "MAX_ROWS", limit)
    assert sorted(d.id for d in index.scan()) == sorted(d.id for d in documents)
    assert index.count(filters.eq("even", True)) == 30
    query = encoder.encode_queries(["fox"], heads=("dense", "sparse"))
    found, expected = index.candidates(query, 40), oracle.candidates(query, 40)
    for head in ("dense", "sparse"):
        assert [hit.id for hit in found[head]] == [hit.id for hit in expected[head]]


def test_scan_computes_what_is_not_stored(index, encoder):
    for document, output in list(index.scan(with_embeddings=True))[:5]:
        expected = encoder.encode_documents([document.content])
        assert output.heads == ("dense", "sparse", "multi_vector")
        assert np.allclose(output.dense, expected.dense, atol=1e-6)
        assert output.sparse[0].to_dict() == pytest.approx(expected.sparse[0].to_dict(), abs=1e-6)
        assert np.allclose(output.multi_vector[0], expected.multi_vector[0], atol=1e-5)


@pytest.mark.parametrize("heads", [("dense",), ("multi_vector",), ("dense", "sparse", "multi_vector")])
def test_embeddings_are_those_of_a_scan(index, heads):
    scanned = {document.id: output.select(heads) for document, output in index.scan(with_embeddings=True)}
    ids = [f"doc-{number}" for number in range(59, -1, -2)]
    found = index.embeddings([*ids, "nope"], heads)
    assert list(found) == ids
    for i, output in found.items():
        assert output.heads == heads
        if output.dense is not None:
            assert np.array_equal(output.dense, scanned[i].dense)
        if output.sparse is not None:
            assert output.sparse[0].to_dict() == scanned[i].sparse[0].to_dict()
        if output.multi_vector is not None:  # computed, in other batches than the scan's
            assert np.allclose(output.multi_vector[0], scanned[i].multi_vector[0], atol=1e-5)


def test_embeddings_that_are_stored_are_not_computed(client, uri, checkpoint, monkeypatch):
    with attach(client, uri, M3Encoder.from_pretrained(checkpoint), verify=0) as index:
        monkeypatch.setattr(TorchBackend, "forward", None)
        assert list(index.embeddings(["doc-1"], ("dense", "sparse"))) == ["doc-1"]
        with pytest.raises(TypeError):
            index.embeddings(["doc-1"])


def test_explanations_add_up_to_the_scores(index):
    for hit in HybridRetriever(index).search("The quick brown fox", k=10):
        explanation = explain("The quick brown fox", hit, index=index)
        assert explanation.weighted == pytest.approx(hit.score, abs=1e-5)
        for head in ("sparse", "multi_vector"):
            contributions = [match.contribution for match in getattr(explanation, head)]
            assert sum(contributions) == pytest.approx(getattr(hit.scores, head), abs=1e-5)


def test_a_collection_can_move_to_an_index_of_ours(index, encoder, documents, tmp_path):
    with MilvusHybridIndex.create("ours", encoder=encoder, uri=tmp_path / "ours.db") as ours:
        pairs = list(index.scan(with_embeddings=True))
        assert ours.upsert([d for d, _ in pairs], embeddings=[e for _, e in pairs]).written == len(documents)
        assert ours.get(["doc-3"]) == [documents[3]]


def test_a_head_that_is_not_stored_is_computed(client, uri, encoder, oracle, index):
    fields = replace(FIELDS, sparse=None)
    with attach(client, uri, encoder, fields=fields) as dense_only:
        query = encoder.encode_queries(["fox"])
        assert list(dense_only.candidates(query, 3)) == ["dense"]
        ids = ["doc-1", "nope", "doc-2"]
        assert dense_only.score(query, ids).keys() == {"doc-1", "doc-2"}
        for i, scores in oracle.score(query, ids).items():
            found = dense_only.score(query, ids)[i]
            assert (found.dense, found.sparse, found.multi_vector) == pytest.approx(
                (scores.dense, scores.sparse, scores.multi_vector), abs=1e-5
            )
    with attach(client, uri, encoder, fields=replace(FIELDS, dense=None)) as sparse_only:
        assert list(sparse_only.candidates(query, 3)) == ["sparse"]


def test_there_is_no_bm25(index, encoder):
    query = encoder.encode_queries(["fox"])
    with pytest.raises(ValueError, match="no BM25"):
        index.candidates(query, 3, text="fox")
    with pytest.raises(ValueError, match="no BM25"):
        index.score(query, ["doc-1"], text="fox")


def test_one_query_at_a_time(index, encoder):
    with pytest.raises(ValueError, match="one text"):
        index.candidates(encoder.encode_queries(["a", "b"]), 3)


def test_async_twins(index):
    async def read():
        return await index.acount(), [document async for document in index.ascan()]

    count, documents = asyncio.run(read())
    assert count == len(documents) == 60


# Ids


hostile = st.one_of(st.sampled_from(INJECTIONS), st.text(min_size=1))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(hostile.filter(lambda i: len(i) < 1000), min_size=1, max_size=4, unique=True))
def test_ids_are_never_read_as_expressions(empty, embedding, ids):
    others = ["a", "b"]
    kept = [Document(id=i, text="kept") for i in others if i not in ids]
    odd = [Document(id=i, text="odd", parent_id=i) for i in ids]
    documents = kept + odd
    assert empty.upsert(documents, embeddings=[embedding] * len(documents)).failed == []
    assert empty.get(ids) == odd
    assert list(empty.score(embedding, ids)) == ids
    assert [d.id for d in empty.scan(f"pk == {literal(ids[0])}")] == [ids[0]]
    assert empty.delete(parent_id=ids[0]) == 1
    assert empty.delete(ids) == len(ids) - 1
    assert sorted(d.id for d in empty.scan()) == sorted(d.id for d in kept)


def test_ids_that_no_row_can_have_are_unknown(index, encoder):
    assert index.get(["\ud800"]) == []
    assert index.delete(["\ud800"]) == 0
    assert index.delete(parent_id="\ud800") == 0


@pytest.mark.parametrize("i", ["1.0", "01", "+1", " 1", "-0", "١", str(2**63), str(-(2**63) - 1), "a", ""])
def test_only_an_integers_own_digits_are_its_id(i):
    assert to_key(i, integer=True) is None


@pytest.mark.parametrize("i", [0, -1, 2**63 - 1, -(2**63)])
def test_integers_are_ids(i):
    assert to_key(str(i), integer=True) == i


def test_integer_keys_are_ids_as_strings(client, uri, encoder, monkeypatch):
    make(client, "numbers", encoder.dim, key=DataType.INT64)
    numbers = [0, 7, -5, 2**63 - 1, -(2**63)]
    out = M3EmbeddingFunction(encoder)(SENTENCES[:5])
    client.insert(
        "numbers",
        [
            {"pk": n, "body": SENTENCES[i], "dv": out["dense"][i], "sv": out["sparse"][[i]]}
            for i, n in enumerate(numbers)
        ],
    )
    monkeypatch.setattr(table_module, "MAX_ROWS", 2)
    with attach(client, uri, encoder, "numbers", fields=replace(FIELDS, parent_id=None)) as index:
        ids = [str(n) for n in numbers]
        assert sorted(d.id for d in index.scan()) == sorted(ids)
        assert [d.id for d in index.get(["7", "x", "-5"])] == ["7", "-5"]
        (best, *_) = HybridRetriever(index).search(SENTENCES[1], 3)
        assert best.id == "7"
        report = index.upsert([Document(id="8", text="new"), Document(id="eight", text="new")])
        assert (report.written, [failure.id for failure in report.failed]) == (1, ["eight"])
        assert "64 bits" in report.failed[0].reason
        assert index.update_metadata({"8": {"lang": "en"}}).failed == []
        assert index.get(["8"])[0].metadata["lang"] == "en"
        assert index.delete(ids) == 5
        assert [d.id for d in index.scan()] == ["8"]


# Writing


def test_a_second_upsert_writes_nothing(empty, documents):
    assert empty.upsert(documents).written == len(documents)
    report = empty.upsert(documents)
    assert (report.written, report.unchanged, report.failed) == (0, len(documents), [])
    assert sorted(empty.scan(), key=lambda d: d.id) == sorted(documents, key=lambda d: d.id)


def test_what_others_filled_is_unchanged(index, documents):
    assert index.upsert(documents).unchanged == len(documents)


def test_a_replaced_document_keeps_nothing_of_the_old_one(empty):
    empty.upsert([Document(id="a", text="fox", metadata={"year": 2020}, parent_id="p")])
    empty.upsert([Document(id="a", text="dog")])
    assert empty.get(["a"]) == [Document(id="a", text="dog")]
    assert empty.count("year > 0") == empty.count(filters.gt("year", 0)) == 0


def test_what_is_no_part_of_a_document_stays(client, uri, encoder):
    extra = [
        ("meta", DataType.JSON, {"nullable": True}),
        ("image", DataType.FLOAT_VECTOR, {"dim": 2}),
        ("year", DataType.INT64, {}),
    ]
    make(client, "rich", encoder.dim, extra=extra)
    fill(client, "rich", encoder, [Document(id="a", text="fox")], meta={"n": 1}, image=[0.5, 0.25], year=3, tag="x")
    with attach(client, uri, encoder, "rich", fields=replace(FIELDS, parent_id=None, metadata="meta")) as index:
        assert index.get(["a"]) == [Document(id="a", text="fox", metadata={"n": 1})]
        assert index.count(filters.eq("n", 1)) == index.count("year == 3") == 1
        assert index.count(filters.eq("year", 3)) == 0  # it is no metadata
        assert index.upsert([Document(id="a", text="dog", metadata={"m": 2})]).written == 1
        assert index.update_metadata({"a": {"m": 3}}).written == 1
        assert index.get(["a"]) == [Document(id="a", text="dog", metadata={"m": 3})]
        (row,) = client.query("rich", filter='pk == "a"', output_fields=["image", "year", "tag"])
        assert (row["image"], row["year"], row["tag"]) == ([0.5, 0.25], 3, "x")
        (failure,) = index.upsert([Document(id="new", text="dog")]).failed
        assert failure.id == "new" and ("image" in failure.reason or "year" in failure.reason)


def test_what_does_not_fit_fails_alone(client, uri, encoder):
    make(client, "strict", encoder.dim, dynamic=False, extra=[("year", DataType.INT64, {})])
    with attach(client, uri, encoder, "strict", fields=replace(FIELDS, parent_id=None)) as index:
        report = index.upsert(
            [
                Document(id="good", text="fox", metadata={"year": 1}),
                Document(id="missing", text="fox"),
                Document(id="mistyped", text="fox", metadata={"year": "1"}),
                Document(id="unknown", text="fox", metadata={"year": 1, "lang": "en"}),
                Document(id="named", text="fox", metadata={"year": 1, "body": "x"}),
                Document(id="long", text="x" * 3000, metadata={"year": 1}),
                Document(id="titled", text="fox", metadata={"year": 1}, title="t"),
                Document(id="child", text="fox", metadata={"year": 1}, parent_id="p"),
                Document(id="fine", text="dog", metadata={"year": 2}),
            ]
        )
        reasons = dict(report.failed)
        assert report.written == 2 and sorted(d.id for d in index.scan()) == ["fine", "good"]
        assert sorted(reasons) == ["child", "long", "missing", "mistyped", "named", "titled", "unknown"]
        for i, part in {"missing": "year", "mistyped": "year", "unknown": "lang", "named": "body"}.items():
            assert part in reasons[i]
        assert "max_length" in reasons["long"]
        assert "title has no field" in reasons["titled"] and "parent_id has no field" in reasons["child"]
        assert index.get(["good"])[0].metadata == {"year": 1}


def test_dynamic_metadata_is_not_named_as_a_field(empty):
    (failure,) = empty.upsert([Document(id="a", text="fox", metadata={"dv": 1})]).failed
    assert "must not be named" in failure.reason


def test_embeddings_may_be_given(empty, encoder):
    document = Document(id="a", text="fox")
    empty.upsert([document], embeddings=encoder.encode_documents(["dog"]))
    query = encoder.encode_queries(["dog"], heads=("dense",))
    assert empty.score(query, ["a"])["a"].dense == pytest.approx(1.0, abs=1e-5)


def test_update_metadata_encodes_nothing(empty, encoder):
    document = Document(id="a", text="fox", metadata={"year": 2020, "lang": "en"}, parent_id="p")
    empty.upsert([document, Document(id="b", text="dog")], embeddings=encoder.encode_documents(["other"] * 2))
    acknowledged = []
    report = empty.update_metadata({"a": {"year": 2021}, "nope": {}, "b": {}}, on_ack=acknowledged.extend)
    assert (report.written, report.unchanged) == (1, 1)
    assert [failure.id for failure in report.failed] == ["nope"]
    assert empty.get(["a"]) == [replace(document, metadata={"year": 2021})]
    assert empty.count('lang == "en"') == 0
    query = encoder.encode_queries(["other"], heads=("dense",))
    assert empty.score(query, ["a"])["a"].dense == pytest.approx(1.0, abs=1e-5)
    assert sorted(acknowledged) == ["a", "b"]


def test_delete(empty, documents, client, uri, encoder):
    empty.upsert(documents)
    assert empty.delete(["doc-0", "doc-0", "nope"]) == 1
    assert empty.delete(filter=filters.lt("number", 10)) == 9
    assert empty.delete(filter="number < 20") == 10
    assert empty.delete(parent_id="parent-30") == 1
    assert empty.count() == 39
    with pytest.raises(ValueError, match="exactly one"):
        empty.delete()
    with attach(client, uri, encoder, fields=replace(FIELDS, parent_id=None)) as index:
        with pytest.raises(ValueError, match="no field of this collection is the parent_id"):
            index.delete(parent_id="p")


def test_keys_that_milvus_makes_are_not_written(client, uri, encoder):
    make(client, "auto", encoder.dim, key=DataType.INT64, auto_id=True)
    out = M3EmbeddingFunction(encoder)(["a fox"])
    client.insert("auto", [{"body": "a fox", "dv": out["dense"][0], "sv": out["sparse"][[0]]}])
    with attach(client, uri, encoder, "auto", fields=replace(FIELDS, parent_id=None)) as index:
        (document,) = index.scan()
        (failure,) = index.upsert([replace(document, text="a dog")]).failed
        assert "auto_id" in failure.reason
        assert index.delete([document.id]) == 1


def test_drop_refuses(index):
    with pytest.raises(ValueError, match="not this index's to drop"):
        index.drop()
    assert index.count() == 60


def test_a_closed_index_says_so(client, uri, encoder, index):
    other = attach(client, uri, encoder)
    other.close()
    other.close()
    with pytest.raises(ValueError, match="closed"):
        other.count()
    assert index.count() == 60


# What attach refuses


def test_collections_that_are_not_there(client, uri, encoder, tmp_path, index):
    with pytest.raises(IndexNotFoundError, match="there are: .*theirs"):
        attach(client, uri, encoder, "nope")
    with pytest.raises(IndexNotFoundError, match="no Milvus Lite file"):
        attach(client, tmp_path / "nope.db", encoder)
    assert not (tmp_path / "nope.db").exists()


def test_an_alias_will_do(client, uri, encoder, index):
    client.create_alias("theirs", "alias")
    with attach(client, uri, encoder, "alias") as other:
        assert other.count() == 60
    client.drop_alias("alias")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "text"}, "text names the field 'text', but 'theirs' has pk, body"),
        ({"id": "body", "text": "lang"}, "id must name the primary key"),
        ({"text": "number"}, "must be VARCHAR to be the text, it is INT64"),
        ({"dense": "sv", "sparse": None}, "must be FLOAT_VECTOR or FLOAT16_VECTOR"),
        ({"sparse": "dv", "dense": None}, "must be SPARSE_FLOAT_VECTOR"),
        ({"metadata": "lang"}, "must be JSON"),
    ],
)
def test_fields_that_do_not_fit(client, uri, encoder, index, fields, message):
    with pytest.raises(ValueError, match=message):
        attach(client, uri, encoder, fields=replace(FIELDS, **fields))


def test_fields_name_a_vector_and_each_field_once():
    with pytest.raises(ValueError, match="dense or a sparse vector"):
        Fields(id="pk")
    with pytest.raises(ValueError, match="different ones"):
        Fields(id="pk", text="pk", dense="dv")


@pytest.mark.parametrize("verify", [8, 0])
def test_another_width_is_another_model(client, uri, tmp_path, index, verify):
    wide = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "wide", hidden_size=48))
    with pytest.raises(ModelMismatchError, match="width 32, the encoder's are 48"):
        attach(client, uri, wide, verify=verify)


@pytest.mark.parametrize("missing", [{}, {"dense": None}, {"sparse": None}])
def test_vectors_of_another_model_are_noticed(client, uri, encoder, tmp_path, index, missing):
    other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
    fields = replace(FIELDS, **missing)
    with pytest.raises(ModelMismatchError, match=r"cosine of at most -?0\.\d+"):
        attach(client, uri, other, fields=fields)
    attach(client, uri, other, fields=fields, verify=0).close()


def test_vectors_of_other_lengths(client, uri, encoder):
    document = Document(id="a", text="fox")
    output = encoder.encode_documents([document.text])
    row = {"pk": "a", "body": "fox", "dv": 2 * output.dense[0], "sv": output.sparse[0].to_dict()}
    fields = replace(FIELDS, parent_id=None)
    make(client, "ip", encoder.dim)
    client.insert("ip", [row])
    with pytest.raises(ModelMismatchError, match=r"of length 1 .* 2\.000 to 2\.000"):
        attach(client, uri, encoder, "ip", fields=fields)
    make(client, "cosine", encoder.dim, metric="COSINE")
    client.insert("cosine", [row])
    with attach(client, uri, encoder, "cosine", fields=fields) as index:
        query = encoder.encode_queries(["fox"], heads=("dense",))
        assert index.score(query, ["a"])["a"].dense == pytest.approx(1.0, abs=1e-5)
        assert index.candidates(query, 1)["dense"][0].score == pytest.approx(1.0, abs=1e-5)


def test_metrics_that_are_not_m3s(client, uri, encoder):
    fields = replace(FIELDS, parent_id=None)
    make(client, "l2", encoder.dim, metric="L2")
    with pytest.raises(ValueError, match="metric IP or COSINE, it has L2"):
        attach(client, uri, encoder, "l2", fields=fields)
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("pk", DataType.VARCHAR, max_length=100, is_primary=True)
    schema.add_field("body", DataType.VARCHAR, max_length=100, enable_analyzer=True)
    schema.add_field("dv", DataType.FLOAT_VECTOR, dim=encoder.dim)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(name="bm25", function_type=FunctionType.BM25, input_field_names="body", output_field_names="words")
    )
    params = MilvusClient.prepare_index_params()
    params.add_index("dv", index_type="FLAT", metric_type="IP")
    params.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection("bm25", schema=schema, index_params=params)
    with pytest.raises(ValueError, match="metric IP, it has BM25"):
        attach(client, uri, encoder, "bm25", fields=replace(fields, sparse="words"))
    with attach(client, uri, encoder, "bm25", fields=replace(fields, sparse=None)) as index:  # the rest is usable
        document = Document(id="a", text="a fox")
        assert index.upsert([document]).written == index.update_metadata({"a": {"n": 1}}).written == 1
        assert index.get(["a"]) == [replace(document, metadata={"n": 1})]


def test_a_vector_without_an_index(client, uri, encoder):
    make(client, "bare", encoder.dim)
    client.release_collection("bare")
    client.drop_index("bare", "dv")
    with pytest.raises(ValueError, match="has no index"):
        attach(client, uri, encoder, "bare", fields=replace(FIELDS, parent_id=None))


# Parts


def test_computed_embeddings_are_kept_up_to_a_size(client, uri, encoder, index, documents):
    ids, first = [document.id for document in documents], documents[0]
    with attach(client, uri, encoder, cache_bytes=40_000) as small:
        one, again = (small.embeddings([first.id], ["multi_vector"])[first.id].multi_vector[0] for _ in range(2))
        assert np.allclose(one, encoder.encode_documents([first.content]).multi_vector[0], atol=1e-6)
        assert np.array_equal(again, one)
        small.embeddings(ids, ["multi_vector"])
        assert 0 < small.reader._memo.nbytes <= 40_000


def test_half_precision_fields_take_and_give_half_precision():
    field = VectorIndex("dv", DataType.FLOAT16_VECTOR, "FLAT", "IP")
    half = to_vector(np.float32([0.5, 0.25]), field)
    assert half.dtype == np.float16
    for stored in (half.tobytes(), [half.tobytes()], half):
        assert _unit(stored, field).tolist() == [0.5, 0.25]


def test_it_is_copied_with_what_is_computed_from_its_texts(index, encoder, documents):
    """More texts than are encoded together, so that some are computed once more, in another batch."""
    target = InMemoryHybridIndex(encoder=encoder)
    report = copy(index, target)
    assert (report.written, report.failed) == (len(documents), [])
    assert {document.id for document in target.scan()} == {document.id for document in documents}
