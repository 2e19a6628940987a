"""`M3Embedding`: the encoder's own vectors, in LlamaIndex' types, each computed once."""

import asyncio
import pickle
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.embeddings.m3plugins import M3Embedding
from llama_index.postprocessor.m3plugins import M3Rerank
from llama_index.sparse_embeddings.m3plugins import M3SparseEmbedding

from m3plugins import M3Encoder
from m3plugins.encoding import shared_encoder
from tests.llamaindex.conftest import Passes
from tests.tiny import SENTENCES


@pytest.fixture
def embedding(encoder: M3Encoder) -> M3Embedding:
    return M3Embedding(encoder=encoder)


def test_vectors_are_the_encoders_own_as_python_floats(embedding: M3Embedding, encoder: M3Encoder):
    vectors = embedding.get_text_embedding_batch(SENTENCES)
    query = embedding.get_query_embedding("a fox")
    np.testing.assert_allclose(vectors, encoder.encode_documents(SENTENCES).dense, atol=1e-6)
    np.testing.assert_allclose(query, encoder.encode_queries(["a fox"]).dense[0], atol=1e-6)
    assert embedding.get_text_embedding(SENTENCES[0]) == vectors[0]
    assert {type(value) for vector in [*vectors, query] for value in vector} == {float}


async def test_async_gives_the_same(embedding: M3Embedding):
    assert await embedding.aget_query_embedding("a fox") == embedding.get_query_embedding("a fox")
    assert await embedding.aget_text_embedding("a fox") == embedding.get_text_embedding("a fox")
    assert await embedding.aget_text_embedding_batch(SENTENCES) == embedding.get_text_embedding_batch(SENTENCES)


def test_a_batch_is_one_call_of_the_model(embedding: M3Embedding, passes: Passes, monkeypatch: pytest.MonkeyPatch):
    calls = []
    encode = M3Encoder.encode_documents
    monkeypatch.setattr(M3Encoder, "encode_documents", lambda *a, **k: calls.append(1) or encode(*a, **k))
    embedding.get_text_embedding_batch(SENTENCES)
    assert len(calls) == 1 and passes.total() == len(SENTENCES)


def test_dense_and_sparse_of_one_model_share_their_pass(checkpoint: Path, passes: Passes):
    dense, sparse = M3Embedding(model=str(checkpoint)), M3SparseEmbedding(model=str(checkpoint))
    assert dense.encoder is sparse.encoder is shared_encoder(str(checkpoint))
    dense.get_text_embedding_batch(SENTENCES)
    for sentence in SENTENCES:
        sparse.get_text_embedding(sentence)
    dense.get_query_embedding("a fox"), sparse.get_query_embedding("a fox")
    assert set(passes.values()) == {1} and len(passes) == len(SENTENCES) + 1


async def test_fifty_at_once_are_one_pass(embedding: M3Embedding, passes: Passes):
    await asyncio.gather(*(embedding.aget_query_embedding("a fox") for _ in range(50)))
    assert passes.total() == 1


def test_as_a_transformation_it_gives_copies(embedding: M3Embedding, nodes: list[TextNode]):
    done = embedding(nodes)
    assert [node.embedding for node in nodes] == [None] * len(nodes)
    texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
    assert [node.embedding for node in done] == embedding.get_text_embedding_batch(texts)
    assert [node.hash for node in done] == [node.hash for node in nodes]


async def test_as_an_async_transformation_it_gives_copies(embedding: M3Embedding, nodes: list[TextNode]):
    done = await embedding.acall(nodes)
    assert [node.embedding for node in nodes] == [None] * len(nodes)
    assert [node.embedding for node in done] == [node.embedding for node in embedding(nodes)]


@pytest.mark.parametrize("component", [M3Embedding, M3Rerank])
def test_a_dump_makes_the_same_component(component: type, checkpoint: Path):
    made = component(model=str(checkpoint), document_max_length=64, query_max_length=32)
    for again in (component.from_dict(made.to_dict()), component.from_json(made.to_json())):
        assert again.to_dict() == made.to_dict()
        assert again.encoder is made.encoder


def test_a_dump_makes_the_same_sparse_embedding(checkpoint: Path):
    made = M3SparseEmbedding(model=str(checkpoint), mcls=8)
    assert M3SparseEmbedding(**made.model_dump()).encoder is made.encoder


@pytest.mark.parametrize(
    "option",
    [{"query_max_length": 16}, {"document_max_length": 16}, {"mcls": 8}, {"dtype": "bfloat16"}, {"revision": "x"}],
)
def test_every_option_that_changes_vectors_is_in_the_dump(option: dict[str, object]):
    assert M3Embedding(model="m", **option).to_dict() != M3Embedding(model="m").to_dict()


def test_of_an_encoder_it_names_model_and_options(checkpoint: Path):
    encoder = M3Encoder.from_pretrained(checkpoint, query_max_length=16, devices="cpu")
    by_encoder = M3Embedding(encoder=encoder)
    by_name = M3Embedding(model=str(checkpoint), query_max_length=16, devices="cpu")
    assert by_encoder.encoder is encoder
    assert by_encoder.to_dict() == by_name.to_dict()
    assert by_encoder.model == by_encoder.model_name == str(checkpoint)


def test_it_survives_pickle(checkpoint: Path):
    embedding = M3Embedding(model=str(checkpoint), query_max_length=16)
    again = pickle.loads(pickle.dumps(embedding))
    assert again.get_query_embedding("a fox") == embedding.get_query_embedding("a fox")
    assert again.to_dict() == embedding.to_dict()


def test_nothing_is_loaded_before_the_first_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    embedding = M3Embedding(model="no/such-model")
    with pytest.raises(FileNotFoundError, match="no/such-model"):
        embedding.get_query_embedding("a fox")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name a model"),
        ({"model": "m", "query_maximum": 3}, "query_maximum"),
        ({"model": "m", "query_max_length": 1}, "query_max_length must be"),
        ({"model": "m", "dtype": "int8"}, "dtype"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        M3Embedding(**arguments)


@pytest.mark.parametrize("option", [{"model": "m"}, {"model_name": "m"}, {"mcls": 8}])
def test_an_encoder_and_a_model_are_refused(encoder: M3Encoder, option: dict[str, object]):
    with pytest.raises(ValueError, match="got an encoder and"):
        M3Embedding(encoder=encoder, **option)


def test_an_option_cannot_change_under_an_encoder(embedding: M3Embedding):
    with pytest.raises(ValueError, match="frozen"):
        embedding.query_max_length = 8
