import re
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient
from scipy.sparse import csr_array

from m3plugins.reranking import CrossEncoderReranker, M3Reranker
from m3plugins_milvus import M3EmbeddingFunction, M3RerankFunction, hybrid_index_params, hybrid_schema
from tests.tiny import SENTENCES

ROOT = Path(__file__).parents[2]
TEXTS = [*SENTENCES, "", SENTENCES[0]]


@pytest.fixture(scope="module")
def function(encoder):
    return M3EmbeddingFunction(encoder, return_colbert_vecs=True)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    client = MilvusClient(str(tmp_path_factory.mktemp("functions") / "f.db"))
    yield client
    client.close()


def test_one_call_returns_what_the_encoder_makes(function, encoder):
    output = encoder.encode_documents(TEXTS)
    result = function.encode_documents(TEXTS)
    assert list(result) == ["dense", "sparse", "colbert_vecs"]
    assert all(vector.dtype == np.float32 for vector in result["dense"])
    assert np.array_equal(result["dense"], output.dense)
    assert isinstance(result["sparse"], csr_array)
    assert result["sparse"].shape == (len(TEXTS), function.dim["sparse"])
    for i, vectors in enumerate(result["colbert_vecs"]):
        assert np.array_equal(vectors, output.multi_vector[i])
        row = result["sparse"][[i]]
        assert dict(zip(row.indices.tolist(), row.data.tolist(), strict=True)) == (
            output.sparse[i].to_dict() or {encoder.vocab_size: pytest.approx(1e-6)}
        )


def test_calling_it_encodes_documents(function):
    assert (function(TEXTS)["sparse"] != function.encode_documents(TEXTS)["sparse"]).nnz == 0


def test_queries_are_cut_where_queries_are(checkpoint):
    function = M3EmbeddingFunction(str(checkpoint), query_max_length=4, passage_max_length=None)
    assert function.encode_queries(SENTENCES)["sparse"].nnz < function.encode_documents(SENTENCES)["sparse"].nnz


def test_dim_names_every_head(function, encoder):
    assert function.dim == {"dense": encoder.dim, "sparse": encoder.vocab_size + 1, "colbert_vecs": encoder.dim}


@pytest.mark.parametrize("row_of", [lambda m, i: m[[i]], lambda m, i: m._getrow(i), lambda m, i: m[[i], :]])
def test_rows_are_inserted_and_found_as_milvus_users_do(client, function, row_of):
    client.drop_collection("c")
    client.create_collection("c", schema=hybrid_schema(function.dim["dense"]), index_params=hybrid_index_params())
    out = function.encode_documents(TEXTS)
    client.insert(
        "c",
        [
            {"id": str(i), "text": text, "dense": out["dense"][i], "sparse": row_of(out["sparse"], i)}
            for i, text in enumerate(TEXTS)
        ],
    )
    query = function.encode_queries(["quick brown fox", ""])
    options = {"anns_field": "sparse", "limit": 100, "search_params": {"metric_type": "IP"}}
    (hits,) = client.search("c", data=[row_of(query["sparse"], 0)], **options)
    found = {int(hit["id"]): hit["distance"] for hit in hits}
    expected = (row_of(query["sparse"], 0) @ out["sparse"].T).toarray()[0]
    assert found == {i: pytest.approx(score, rel=1e-5) for i, score in enumerate(expected) if score}
    (nothing,) = client.search("c", data=[row_of(query["sparse"], 1)], **options)
    assert not nothing


def test_only_what_is_asked_for_is_computed(encoder):
    assert list(M3EmbeddingFunction(encoder, return_dense=False)(["fox"])) == ["sparse"]
    assert list(M3EmbeddingFunction(encoder, return_sparse=False)(["fox"])) == ["dense"]


def test_no_texts_give_no_rows(function):
    empty = function([])
    assert (empty["dense"], empty["sparse"].shape[0], empty["colbert_vecs"]) == ([], 0, [])


@pytest.mark.parametrize("method", ["encode_documents", "encode_queries", "__call__"])
def test_a_string_is_no_list_of_texts(function, method):
    with pytest.raises(TypeError, match="put it in a list"):
        getattr(function, method)("fox")


def test_keywords_of_the_original_are_understood():
    function = M3EmbeddingFunction(
        "some/model", batch_size=4, device="cpu", normalize_embeddings=True, use_fp16=True, return_dense=True
    )
    options = function.encoder.options  # nothing is loaded yet
    assert (options.devices, options.dtype, options.batch_tokens) == (("cpu",), "float16", 4 * 512)
    assert (options.query_max_length, options.document_max_length) == (512, 512)
    assert function.model_name == "some/model"
    assert M3EmbeddingFunction().encoder.model == "BAAI/bge-m3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_embeddings": False}, "normalize_embeddings must be True"),
        ({"return_dense": False, "return_sparse": False}, "one of return_dense"),
    ],
)
def test_what_is_impossible_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        M3EmbeddingFunction("some/model", **options)


def test_an_encoder_is_not_told_how_to_run(encoder):
    with pytest.raises(ValueError, match="give device, lengths and precision to M3Encoder"):
        M3EmbeddingFunction(encoder, device="cpu")


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="pooling_method"):
        M3EmbeddingFunction("some/model", pooling_method="mean")


def test_an_encoder_reranks_with_its_three_heads(encoder):
    results = M3RerankFunction(encoder)("brown fox", SENTENCES, top_k=3)
    scores = M3Reranker(encoder).score("brown fox", SENTENCES).tolist()
    assert [result.index for result in results] == np.argsort(np.negative(scores), kind="stable")[:3].tolist()
    best = results[0]
    assert best.to_dict() == {"text": SENTENCES[best.index], "score": scores[best.index], "index": best.index}
    assert type(best.score) is float


def test_a_name_is_a_cross_encoders():
    reranker = M3RerankFunction(model_name="some/reranker", device="cpu").reranker
    assert isinstance(reranker, CrossEncoderReranker)
    assert (reranker.model, reranker.normalize) == ("some/reranker", True)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (5, 5), (9, 9), (100, 12), (None, 12), (0, 12)])
def test_top_k_is_honoured(encoder, top_k, count):
    assert len(M3RerankFunction(encoder)("fox", SENTENCES, top_k=top_k)) == count


def test_the_default_is_the_best_five(encoder):
    assert len(M3RerankFunction(M3Reranker(encoder))("fox", SENTENCES)) == 5


def test_equal_documents_keep_their_order(encoder):
    assert [result.index for result in M3RerankFunction(encoder)("fox", ["a fox"] * 4)] == [0, 1, 2, 3]


def test_nothing_to_rerank(encoder):
    assert M3RerankFunction(encoder)("fox", []) == []


def test_wrong_arguments(encoder):
    with pytest.raises(TypeError, match="put it in a list"):
        M3RerankFunction(encoder)("fox", "a fox")
    with pytest.raises(ValueError, match="top_k"):
        M3RerankFunction(encoder)("fox", ["a fox"], top_k=-1)


def test_the_guide_runs(checkpoint, tmp_path, monkeypatch):
    guide = (ROOT / "docs/from-bgem3embeddingfunction.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(snippets) == 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet.replace('"BAAI/bge-m3"', repr(str(checkpoint))), "guide", "exec"), names)
    assert names["hits"] and names["hit"].scores.multi_vector is not None
