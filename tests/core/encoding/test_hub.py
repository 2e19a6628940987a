"""BAAI/bge-m3 against its model card. Downloads 2.3 GB: run it with `pytest -m hub`.

The figures are those of the card (huggingface.co/BAAI/bge-m3, sections "Usage" and "Compute score for text
pairs"), made in float16 and printed to three or four digits, hence the tolerances.
"""

import pytest

from m3plugins import M3Encoder
from m3plugins.encoding.locate import locate
from m3plugins.reranking import M3Reranker

QUERIES = ["What is BGE M3?", "Defination of BM25"]
PASSAGES = [
    "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector interaction.",
    "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query terms appearing "
    "in each document",
]

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def bge_m3() -> M3Encoder:
    try:
        locate("BAAI/bge-m3")
    except FileNotFoundError as err:
        pytest.skip(str(err))
    return M3Encoder.from_pretrained("BAAI/bge-m3")


def test_dense_similarities(bge_m3):
    similarity = bge_m3.encode_queries(QUERIES).dense @ bge_m3.encode_documents(PASSAGES).dense.T
    assert similarity.ravel().tolist() == pytest.approx([0.6265, 0.3477, 0.3499, 0.678], abs=2e-3)


def test_lexical_weights(bge_m3):
    weights = bge_m3.encode_queries(QUERIES[:1]).sparse[0].to_dict()
    pieces = {bge_m3.decode_token(token).strip("\u2581"): weight for token, weight in weights.items()}
    card = {"What": 0.08356, "is": 0.0814, "B": 0.1296, "GE": 0.252, "M": 0.1702, "3": 0.2695, "?": 0.04092}
    assert pieces == pytest.approx(card, abs=2e-3)


def test_scores_of_pairs(bge_m3):
    scores = M3Reranker(bge_m3).score_pairs([(query, passage) for query in QUERIES for passage in PASSAGES])
    assert [score.dense for score in scores] == pytest.approx([0.62598, 0.34741, 0.34985, 0.67822], abs=2e-3)
    assert [score.sparse for score in scores] == pytest.approx([0.19556, 0.0088, 0.0, 0.1803], abs=2e-3)
    assert [score.multi_vector for score in scores] == pytest.approx([0.77965, 0.46215, 0.45238, 0.78986], abs=2e-3)
