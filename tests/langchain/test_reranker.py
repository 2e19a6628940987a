"""`M3Reranker` and `M3CrossEncoder`: core's scores for LangChain's documents and pairs."""

from __future__ import annotations

import copy

import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_m3plugins import M3CrossEncoder, M3Reranker, M3Retriever
from m3plugins import HybridRetriever, HybridWeights, M3Encoder, reranking
from tests.langchain.conftest import ByLength, Passes
from tests.tiny import SENTENCES

QUERY = "a quick fox"
WEIGHTS = HybridWeights(dense=0.5, sparse=0, multi_vector=1)


@pytest.fixture
def documents() -> list[Document]:
    return [Document(id=str(n), page_content=text, metadata={"tags": ["a"]}) for n, text in enumerate(SENTENCES)]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_scores_and_order_are_the_cores(encoder: M3Encoder, documents: list[Document], weights: HybridWeights | None):
    expected = reranking.M3Reranker(encoder, weights=weights).score(QUERY, SENTENCES)
    found = M3Reranker(encoder=encoder, weights=weights, top_n=None).compress_documents(documents, QUERY)
    assert [int(document.id) for document in found] == sorted(range(len(SENTENCES)), key=lambda i: -expected[i])
    for document in found:
        assert document.metadata["relevance_score"] == pytest.approx(
            float(expected[int(document.id)]), rel=1e-6, abs=1e-6
        )
        assert type(document.metadata["relevance_score"]) is float


def test_top_n_is_three_unless_said_otherwise(encoder: M3Encoder, documents: list[Document]):
    every = M3Reranker(encoder=encoder, top_n=None).compress_documents(documents, QUERY)
    assert M3Reranker(encoder=encoder).compress_documents(documents, QUERY) == every[:3]
    assert M3Reranker(encoder=encoder, top_n=99).compress_documents(documents, QUERY) == every
    with pytest.raises(ValidationError, match="top_n"):
        M3Reranker(encoder=encoder, top_n=0)


def test_documents_are_copied(encoder: M3Encoder, documents: list[Document]):
    before = copy.deepcopy(documents)
    M3Reranker(encoder=encoder).compress_documents(documents, QUERY)
    assert documents == before


def test_nothing_to_rerank_needs_no_pass(encoder: M3Encoder, passes: Passes):
    assert M3Reranker(encoder=encoder).compress_documents([], QUERY) == []
    assert M3CrossEncoder(encoder=encoder).score([]) == []
    assert passes.texts == []


def test_equal_documents_stay_in_their_order(encoder: M3Encoder):
    same = [Document(id=str(number), page_content="a fox") for number in range(9)]
    found = M3Reranker(encoder=encoder, top_n=None).compress_documents(same, QUERY)
    assert [document.id for document in found] == [document.id for document in same]


async def test_the_async_method_gives_the_same(encoder: M3Encoder, documents: list[Document]):
    reranker = M3Reranker(encoder=encoder)
    assert await reranker.acompress_documents(documents, QUERY) == reranker.compress_documents(documents, QUERY)


def test_any_reranker_of_the_core_will_do(documents: list[Document]):
    found = M3Reranker(reranker=ByLength(), top_n=1).compress_documents(documents, QUERY)
    assert found[0].page_content == max(SENTENCES, key=len)
    assert M3CrossEncoder(reranker=ByLength()).score([("q", "abc"), ("r", "a"), ("q", "")]) == [3.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", [M3Reranker, M3CrossEncoder])
def test_a_reranker_excludes_a_model_and_weights(kind: type, encoder: M3Encoder):
    for others in ({"encoder": encoder}, {"model": "m3-mini"}, {"weights": WEIGHTS}):
        with pytest.raises(ValidationError, match="drop one"):
            kind(reranker=ByLength(), **others)
    with pytest.raises(ValidationError, match="topn"):
        kind(encoder=encoder, topn=3)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_pairs_have_the_scores_that_documents_have(encoder: M3Encoder, weights: HybridWeights | None):
    core = reranking.M3Reranker(encoder, weights=weights)
    pairs = [(query, text) for text in SENTENCES for query in (QUERY, "a dog")]
    expected = {(query, text): core.score(query, [text])[0] for query, text in pairs}
    found = M3CrossEncoder(encoder=encoder, weights=weights).score(pairs)
    assert found == pytest.approx([float(expected[pair]) for pair in pairs], rel=1e-6, abs=1e-6)
    assert {type(score) for score in found} == {float}


def test_each_text_is_encoded_once(encoder: M3Encoder, documents: list[Document], passes: Passes):
    M3CrossEncoder(encoder=encoder).score([(QUERY, text) for text in SENTENCES * 2])
    M3Reranker(encoder=encoder).compress_documents(documents, QUERY)
    assert len(passes.texts) == len(SENTENCES) + 1


def test_langchains_own_rerankers_take_them(hybrid: HybridRetriever):
    classic = pytest.importorskip("langchain_classic.retrievers")
    document_compressors = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    encoder = hybrid.index.encoder
    compressors = [
        M3Reranker(encoder=encoder, top_n=2),
        document_compressors.CrossEncoderReranker(model=M3CrossEncoder(encoder=encoder), top_n=2),
    ]
    found = []
    for compressor in compressors:
        retriever = classic.ContextualCompressionRetriever(
            base_compressor=compressor, base_retriever=M3Retriever(retriever=hybrid, k=12)
        )
        found.append([document.id for document in retriever.invoke(QUERY)])
    assert len(found[0]) == 2
    assert found[0] == found[1]
