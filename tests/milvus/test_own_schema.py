import numpy as np
import pytest
from pymilvus import MilvusClient

from m3plugins import HybridWeights
from m3plugins.fusion import weighted_sum
from m3plugins.scoring.heads import head_scores
from m3plugins_milvus import (
    hybrid_index_params,
    hybrid_ranker,
    hybrid_rows,
    hybrid_schema,
    hybrid_search_requests,
)
from tests.tiny import random_documents

NAMES = {"dense_field": "dv", "sparse_field": "sv"}
WEIGHTS = HybridWeights(dense=0.7, sparse=1.0)


@pytest.fixture(scope="module")
def texts():
    return ["", *(document.content for document in random_documents(40))]


@pytest.fixture(scope="module")
def embeddings(encoder, texts):
    return encoder.encode_documents(texts, heads=("dense", "sparse"))


@pytest.fixture(scope="module")
def client(encoder, texts, embeddings, tmp_path_factory):
    client = MilvusClient(str(tmp_path_factory.mktemp("own") / "own.db"))
    client.create_collection(
        "own",
        schema=hybrid_schema(encoder, id_field="pk", text_field="body", **NAMES),
        index_params=hybrid_index_params(**NAMES),
    )
    rows = hybrid_rows(embeddings, **NAMES)
    client.insert(
        "own",
        [{"pk": str(i), "body": text, "year": i, **row} for i, (text, row) in enumerate(zip(texts, rows, strict=True))],
    )
    client.flush("own")
    yield client
    client.close()


def search(client, query, **options):
    requests = hybrid_search_requests(query, k=100, **NAMES, **options)
    (hits,) = client.hybrid_search("own", requests, ranker=hybrid_ranker(requests, WEIGHTS, **NAMES), limit=100)
    return {hit["pk"]: hit["distance"] for hit in hits}


@pytest.mark.parametrize("question", ["The quick brown fox", "狐", "..."])
def test_hybrid_search_scores_as_m3plugins_does(client, encoder, embeddings, question):
    query = encoder.encode_queries([question], heads=("dense", "sparse"))
    expected = [weighted_sum(scores, WEIGHTS) for scores in head_scores(query, embeddings)]
    found = search(client, query)
    assert len(found) == len(embeddings)
    for i, score in enumerate(expected):
        assert found[str(i)] == pytest.approx(score, abs=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_filter_applies_to_both_heads(client, encoder):
    query = encoder.encode_queries(["fox"], heads=("dense", "sparse"))
    assert sorted(map(int, search(client, query, filter="year < 5"))) == [0, 1, 2, 3, 4]


def test_a_query_without_a_token_has_no_sparse_request(client, encoder, embeddings):
    query = encoder.encode_queries([""], heads=("dense", "sparse"))
    assert not len(query.sparse[0])
    (request,) = hybrid_search_requests(query, k=3)
    assert request.anns_field == "dense"
    assert len(search(client, query)) == len(embeddings)


def test_every_row_has_a_sparse_vector_of_plain_numbers(embeddings):
    rows = hybrid_rows(embeddings)
    assert rows[0]["sparse"] == {embeddings.sparse.vocab_size: 1e-6}
    assert rows[5]["sparse"] == embeddings.sparse[5].to_dict()
    assert all(type(i) is int and type(w) is float for row in rows for i, w in row["sparse"].items())
    assert rows[5]["dense"] is not None and np.array_equal(rows[5]["dense"], embeddings.dense[5])


def test_rows_have_the_heads_that_were_computed(encoder):
    assert list(hybrid_rows(encoder.encode_documents(["fox"], heads=["sparse"]))[0]) == ["sparse"]
    assert hybrid_rows(encoder.encode_documents([])) == []


def test_one_query_at_a_time(embeddings):
    with pytest.raises(ValueError, match="one text"):
        hybrid_search_requests(embeddings, k=3)


def test_the_schema_takes_a_width_for_an_encoder(encoder):
    assert hybrid_schema(encoder).to_dict() == hybrid_schema(encoder.dim).to_dict()


def indexes(**options):
    return {index.field_name: index.to_dict() for index in hybrid_index_params(**options)}


def test_the_default_indexes_lose_nothing():
    assert indexes()["dense"] == {"field_name": "dense", "index_name": "", "index_type": "FLAT", "metric_type": "IP"}
    assert indexes()["sparse"]["index_type"] == "SPARSE_INVERTED_INDEX"
    assert "drop_ratio" not in str(indexes())


def test_a_managed_milvus_chooses_the_indexes():
    assert {index["index_type"] for index in indexes(managed=True).values()} == {"AUTOINDEX"}
    with pytest.raises(ValueError, match="managed Milvus chooses"):
        hybrid_index_params(managed=True, dense_index={"index_type": "HNSW"})


def test_a_dense_index_may_be_chosen(client, encoder):
    hnsw = {"index_type": "HNSW", "params": {"M": 8, "efConstruction": 64}}
    params = hybrid_index_params(dense_index=hnsw)
    client.create_collection("hnsw", schema=hybrid_schema(encoder), index_params=params)
    output = encoder.encode_documents(["a fox", "a dog"])
    client.insert("hnsw", [{"id": str(i), "text": "", **row} for i, row in enumerate(hybrid_rows(output))])
    requests = hybrid_search_requests(output[1], k=2, dense_params={"ef": 64})
    (hits,) = client.hybrid_search("hnsw", requests, ranker=hybrid_ranker(requests), limit=1)
    assert hits[0]["id"] == "1"


def test_weights_beyond_what_milvus_takes_are_refused(encoder):
    requests = hybrid_search_requests(encoder.encode_queries(["fox"]), k=3)
    with pytest.raises(ValueError, match="from 0 to 1"):
        hybrid_ranker(requests, HybridWeights(dense=2.0))
