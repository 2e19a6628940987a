"""Parity with FlagEmbedding 1.4.2 on a random checkpoint: every head, every kind of text."""

from pathlib import Path

import numpy as np
import pytest

from m3plugins import HybridWeights, M3Encoder
from m3plugins.fusion import weighted_sum
from m3plugins.reranking import M3Reranker
from tests.tiny import SENTENCES

pytestmark = pytest.mark.parity

TEXTS = [
    *SENTENCES,
    "",
    " ",
    "x",
    "🦊🐕 family: 👨‍👩‍👧‍👦, flag: 🇩🇪, zero width: a\u200bb",
    "combining: e\u0301 \u0928\u093f, tabs\tand\nnewlines\r\n",
    "repeated repeated repeated words words words",
    " ".join(SENTENCES) * 3,
    "the fox " * 6000,  # longer than 8192 tokens
]


@pytest.fixture(scope="module")
def reference(checkpoint: Path):
    from FlagEmbedding import BGEM3FlagModel

    return BGEM3FlagModel(str(checkpoint), use_fp16=False, devices="cpu")


@pytest.fixture(scope="module")
def expected(reference):
    return reference.encode(
        TEXTS, batch_size=4, max_length=8192, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )


@pytest.fixture(scope="module")
def output(encoder: M3Encoder):
    return encoder.encode_documents(TEXTS)


def test_longest_text_fills_8192_tokens(output):
    assert output.token_counts.max() == 8192
    assert output.truncated.tolist() == [False] * (len(TEXTS) - 1) + [True]


def test_dense_equals_the_reference(output, expected):
    assert np.abs(output.dense - expected["dense_vecs"]).max() <= 1e-5


def test_sparse_equals_the_reference(output, expected):
    for ours, theirs in zip(output.sparse, expected["lexical_weights"], strict=True):
        reference = {int(token): float(weight) for token, weight in theirs.items()}
        assert ours.to_dict().keys() == reference.keys()
        assert max((abs(weight - reference[token]) for token, weight in ours.to_dict().items()), default=0) <= 1e-5


def test_multi_vectors_equal_the_reference(output, expected):
    for ours, theirs in zip(output.multi_vector, expected["colbert_vecs"], strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-5


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.3, 1.0), (0.15, 0.5, 0.35)])
def test_all_five_scores_equal_compute_score(reference, encoder: M3Encoder, weights):
    pairs = [(query, text) for query in TEXTS[:4] for text in TEXTS[:-1]]
    expected = reference.compute_score(
        pairs, batch_size=8, max_query_length=512, max_passage_length=8192, weights_for_different_modes=list(weights)
    )
    dense, sparse, multi_vector = weights
    scores = M3Reranker(encoder).score_pairs(pairs)
    both = HybridWeights(dense=dense, sparse=sparse, multi_vector=0)
    every = HybridWeights(dense=dense, sparse=sparse, multi_vector=multi_vector)
    ours = {
        "dense": [score.dense for score in scores],
        "sparse": [score.sparse for score in scores],
        "colbert": [score.multi_vector for score in scores],
        # The reference divides by the sum of the weights, we do not.
        "sparse+dense": [weighted_sum(score, both) / (dense + sparse) for score in scores],
        "colbert+sparse+dense": [weighted_sum(score, every) / sum(weights) for score in scores],
    }
    for kind, column in ours.items():
        np.testing.assert_allclose(column, expected[kind], atol=2e-5, rtol=1e-5, err_msg=kind)


def test_prompts_equal_the_references_instructions(checkpoint: Path):
    from FlagEmbedding import BGEM3FlagModel

    prompts = {"query": "Represent this question: ", "document": "Passage:\n"}
    reference = BGEM3FlagModel(
        str(checkpoint),
        use_fp16=False,
        devices="cpu",
        query_instruction_for_retrieval=prompts["query"],
        passage_instruction_for_retrieval=prompts["document"],
    )
    encoder = M3Encoder.from_pretrained(checkpoint, query_prompt=prompts["query"], document_prompt=prompts["document"])
    heads = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
    for output, expected in (
        (encoder.encode_queries(SENTENCES), reference.encode_queries(SENTENCES, **heads)),
        (encoder.encode_documents(SENTENCES), reference.encode_corpus(SENTENCES, **heads)),
    ):
        assert np.abs(output.dense - expected["dense_vecs"]).max() <= 1e-5
        for ours, theirs in zip(output.sparse, expected["lexical_weights"], strict=True):
            assert ours.to_dict() == pytest.approx(
                {int(token): float(each) for token, each in theirs.items()}, abs=1e-5
            )
        for ours, theirs in zip(output.multi_vector, expected["colbert_vecs"], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
