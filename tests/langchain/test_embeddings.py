"""The dense head as LangChain embeddings: the encoder's values, plain floats, one pass a text."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from langchain_m3plugins import M3Embeddings, M3SparseEmbeddings
from m3plugins import M3Encoder
from tests.langchain.conftest import Passes
from tests.tiny import SENTENCES


@pytest.fixture
def embeddings(encoder: M3Encoder) -> M3Embeddings:
    return M3Embeddings(encoder=encoder)


def test_the_values_are_the_encoders(embeddings: M3Embeddings, encoder: M3Encoder):
    close = {"rtol": 0, "atol": 1e-6}
    documents, query = encoder.encode_documents(SENTENCES).dense, encoder.encode_queries(["a fox"]).dense
    np.testing.assert_allclose(embeddings.embed_documents(SENTENCES), documents, **close)
    np.testing.assert_allclose([embeddings.embed_query("a fox")], query, **close)


def test_they_are_plain_floats(embeddings: M3Embeddings):
    rows = [*embeddings.embed_documents(["a fox", ""]), embeddings.embed_query("a fox")]
    assert {type(row) for row in rows} == {list}
    assert {type(value) for row in rows for value in row} == {float}


def test_no_documents_have_no_vectors(embeddings: M3Embeddings):
    assert embeddings.embed_documents([]) == []


async def test_the_async_methods_give_the_same(embeddings: M3Embeddings):
    assert await embeddings.aembed_documents(SENTENCES) == embeddings.embed_documents(SENTENCES)
    assert await embeddings.aembed_query("a fox") == embeddings.embed_query("a fox")


def test_one_string_is_no_list_of_documents(embeddings: M3Embeddings):
    with pytest.raises(TypeError, match="list"):
        embeddings.embed_documents("a fox")


def test_dense_and_sparse_of_one_model_take_one_pass_a_text(checkpoint, passes: Passes):
    options = {"model": checkpoint, "encoder_kwargs": {"query_max_length": 32}}
    dense, sparse = M3Embeddings(**options), M3SparseEmbeddings(**options)
    dense.embed_documents(SENTENCES)
    sparse.embed_documents(SENTENCES)
    sparse.embed_query("a fox")
    dense.embed_query("a fox")
    assert len(passes.texts) == len(SENTENCES) + 1


def test_the_same_name_and_options_are_the_same_encoder(checkpoint):
    first = M3Embeddings(model=checkpoint)
    assert M3SparseEmbeddings(model=str(checkpoint)).encoder is first.encoder
    assert M3Embeddings(model=checkpoint, encoder_kwargs={"query_max_length": 9}).encoder is not first.encoder


def test_nothing_is_loaded_until_it_is_used():
    M3Embeddings(model="there/is-no-model")


def test_the_default_model_is_bge_m3():
    assert M3Embeddings().model == "BAAI/bge-m3"


def test_an_encoder_names_its_model(encoder: M3Encoder):
    assert M3Embeddings(encoder=encoder).model == encoder.model


@pytest.mark.parametrize("others", [{"model": "m3-mini"}, {"encoder_kwargs": {"dtype": "float16"}}])
def test_an_encoder_excludes_a_name(encoder: M3Encoder, others: dict):
    with pytest.raises(ValidationError, match="drop one"):
        M3Embeddings(encoder=encoder, **others)


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError, match="model_name"):
        M3Embeddings(model_name="m3-mini")
    with pytest.raises(TypeError, match="batch_size"):
        M3Embeddings(encoder_kwargs={"batch_size": 8})


def test_fields_cannot_be_changed_without_effect(embeddings: M3Embeddings):
    with pytest.raises(ValidationError, match="frozen"):
        embeddings.model = "m3-mini"
