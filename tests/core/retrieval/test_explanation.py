"""An explanation is of the stored vectors, names the tokens that they are of, and adds up to the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3plugins import Document, HybridRetriever, HybridWeights, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import MultiVectorEmbeddings
from m3plugins.encoding.backends.torch import TorchBackend
from m3plugins.fusion import weighted_sum
from m3plugins.reranking import M3Reranker
from m3plugins.retrieval import Explanation, Hit, explain
from m3plugins.scoring import HeadScores
from tests.tiny import SENTENCES

QUERY = "the quick brown fox and the lazy dog"
WORDS = st.sampled_from([*" ".join(SENTENCES).split(), "<s>", "</s>", "fox", "Fox", "𓀀"])
TEXTS = st.lists(WORDS, max_size=40).map(" ".join)


def index_of(encoder: M3Encoder, *documents: Document) -> InMemoryHybridIndex:
    index = InMemoryHybridIndex(encoder=encoder, codec=None)
    index.upsert(documents)
    return index


@pytest.fixture(scope="module")
def index(encoder: M3Encoder) -> InMemoryHybridIndex:
    documents = [Document(id=f"d{i}", text=text, title="Fox") for i, text in enumerate(SENTENCES)]
    return index_of(encoder, *documents, Document(id="empty", text=""))


def assert_adds_up(explanation: Explanation) -> None:
    scores = explanation.hit.scores
    for head in ("sparse", "multi_vector"):
        contributions = [match.contribution for match in getattr(explanation, head)]
        assert sum(contributions) == pytest.approx(getattr(scores, head) or 0.0, abs=1e-5)


def pieces(encoder: M3Encoder, text: str) -> list[str]:
    """The tokens of a text that is not cut, but for CLS."""
    return encoder.tokenizer.encode(text).tokens[1:]


# The sums


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=TEXTS, text=TEXTS, title=st.sampled_from(["", "The fox"]))
def test_matches_add_up_to_the_scores_and_contributions_to_the_hits(encoder, query, text, title):
    index = index_of(encoder, Document(id="a", text=text, title=title))
    (hit,) = HybridRetriever(index).search(query)
    explanation = explain(query, hit, index=index)
    assert_adds_up(explanation)
    assert explanation.weighted == pytest.approx(hit.score, abs=1e-6)
    assert (explanation.query, explanation.hit) == (query, hit)


def test_prompts_are_explained_too_since_they_score(checkpoint: Path):
    encoder = M3Encoder.from_pretrained(checkpoint, query_prompt="Find: ", document_prompt="passage: ")
    index = index_of(encoder, Document(id="a", text=SENTENCES[0], title="Fox"))
    (hit,) = HybridRetriever(index).search(QUERY)
    explanation = explain(QUERY, hit, index=index)
    assert_adds_up(explanation)
    assert [match.query for match in explanation.multi_vector] == pieces(encoder, f"Find: {QUERY}")


@pytest.mark.parametrize("weights", [HybridWeights(dense=0.15, sparse=0.5, multi_vector=0.35), HybridWeights(dense=0)])
def test_a_contribution_is_weight_times_score(index, weights):
    for hit in HybridRetriever(index, weights=weights).search(QUERY, k=3):
        explanation = explain(QUERY, hit, index=index, weights=weights)
        assert explanation.contributions == {
            "dense": weights.dense * hit.scores.dense,
            "sparse": weights.sparse * hit.scores.sparse,
            "multi_vector": weights.multi_vector * hit.scores.multi_vector,
        }
        assert explanation.weighted == pytest.approx(hit.score)


def test_only_what_was_scored_is_explained(index):
    for head, weights in {
        "dense": HybridWeights(sparse=0, multi_vector=0),
        "sparse": HybridWeights(dense=0, multi_vector=0),
    }.items():
        hit = HybridRetriever(index, weights=weights).search(QUERY, k=1)[0]
        explanation = explain(QUERY, hit, index=index, weights=weights)
        assert list(explanation.contributions) == [head]
        assert bool(explanation.sparse) == (head == "sparse")
        assert explanation.multi_vector == ()
        assert_adds_up(explanation)


def test_of_reciprocal_ranks_and_rerankers_the_weighted_sum_is_told_beside_the_score(index):
    reranker = M3Reranker(index.encoder, weights=HybridWeights(dense=0, sparse=1, multi_vector=0))
    for retriever in (HybridRetriever(index, fusion="rrf"), HybridRetriever(index, reranker=reranker)):
        hit = retriever.search(QUERY, k=1)[0]
        explanation = explain(QUERY, hit, index=index)
        assert explanation.weighted == pytest.approx(weighted_sum(hit.scores, HybridWeights()))
        assert explanation.weighted != pytest.approx(hit.score)
        assert_adds_up(explanation)


# The tokens


def test_word_pieces_in_both_come_with_their_weights_most_first(index, encoder):
    hit = HybridRetriever(index).search(QUERY, k=1)[0]
    query, document = encoder.encode_queries([QUERY]).sparse[0], index.embeddings([hit.id])[hit.id].sparse[0]
    matches = explain(QUERY, hit, index=index).sparse
    assert {match.id for match in matches} == query.to_dict().keys() & document.to_dict().keys()
    for match in matches:
        assert match.token == encoder.tokenizer.id_to_token(match.id)
        assert (match.query, match.document) == (query.to_dict()[match.id], document.to_dict()[match.id])
    assert [m.contribution for m in matches] == sorted((m.query * m.document for m in matches), reverse=True)


def test_each_token_of_the_query_comes_with_the_nearest_of_the_document(index, encoder):
    for hit in HybridRetriever(index).search(QUERY, k=20):
        query = encoder.encode_queries([QUERY]).multi_vector[0]
        document = index.embeddings([hit.id])[hit.id].multi_vector[0]
        matches = explain(QUERY, hit, index=index).multi_vector
        assert [match.query for match in matches] == pieces(encoder, QUERY)
        assert [match.query_row for match in matches] == list(range(len(query)))
        for match in matches:
            assert match.document == pieces(encoder, hit.document.content)[match.document_row]
            similarities = document @ query[match.query_row]
            assert match.similarity == pytest.approx(similarities[match.document_row], abs=1e-6)
            assert match.similarity == pytest.approx(similarities.max(), abs=1e-6)
            assert match.contribution == match.similarity / len(query)


def test_a_text_finds_each_of_its_own_tokens(index):
    hit = HybridRetriever(index).search(f"Fox\n{SENTENCES[0]}", k=1)[0]
    for match in explain(hit.document.content, hit, index=index).multi_vector:
        assert (match.query, match.query_row) == (match.document, match.document_row)
        assert match.similarity == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mcls", [None, 1, 4, 5, 8])
@pytest.mark.parametrize("length", [7, 8, 20, 8192])
def test_tokens_are_those_that_were_read_however_a_text_was_cut(checkpoint: Path, mcls: int | None, length: int):
    """A document has no vector of the CLS tokens in it, but one of a word that looks like CLS."""
    encoder = M3Encoder.from_pretrained(checkpoint, mcls=mcls, document_max_length=length, query_max_length=length)
    texts = [SENTENCES[0] * 3, "fox <s> dog <s> </s> fox", "fox", ""]
    index = index_of(encoder, *(Document(id=text[:9] or "-", text=text) for text in texts))
    for query in texts:
        for hit in HybridRetriever(index).search(query, k=4):
            explanation = explain(query, hit, index=index)
            assert_adds_up(explanation)
            read = [m.document for m in explanation.multi_vector if m.document != "</s>"]
            assert set(read) <= set(pieces(encoder, hit.text))
            if hit.text == query:
                whole = pieces(encoder, query)
                assert [m.query for m in explanation.multi_vector] == [*whole[: length - 2], "</s>"][: len(whole)]


def test_an_encoder_that_cuts_elsewhere_by_now_explains_what_was_stored(checkpoint: Path):
    short = M3Encoder.from_pretrained(checkpoint, document_max_length=9)
    documents = [Document(id="a", text=SENTENCES[0])]
    index = InMemoryHybridIndex(encoder=M3Encoder.from_pretrained(checkpoint))
    index.upsert(documents, embeddings=short.encode_documents([SENTENCES[0]]))
    (hit,) = HybridRetriever(index).search(QUERY)
    explanation = explain(QUERY, hit, index=index)
    assert_adds_up(explanation)
    assert max(match.document_row for match in explanation.multi_vector) < 8


# The query


def test_the_hits_of_one_query_encode_it_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    index = index_of(M3Encoder.from_pretrained(checkpoint), *(Document(id=text, text=text) for text in SENTENCES))
    hits = HybridRetriever(index).search(QUERY)
    forward, passes = TorchBackend.forward, []

    def counted(self, batch, heads):
        passes.extend(batch)
        return forward(self, batch, heads)

    monkeypatch.setattr(TorchBackend, "forward", counted)
    explanations = [explain(QUERY, hit, index=index) for hit in hits]
    assert len(passes) == 1 and len(explanations) == 10
    embedding = index.encoder.encode_queries([QUERY])
    passes.clear()
    assert [explain(QUERY, hit, index=index, embedding=embedding) for hit in hits] == explanations
    assert passes == []


def test_embeddings_of_two_queries_or_of_another_one_are_refused(index, encoder):
    hit = HybridRetriever(index).search(QUERY, k=1)[0]
    with pytest.raises(ValueError, match="query must hold one text, got 2"):
        explain(QUERY, hit, index=index, embedding=encoder.encode_queries([QUERY, QUERY]))
    with pytest.raises(ValueError, match=r"the query must have one vector a token, got \d+ for"):
        explain(QUERY, hit, index=index, embedding=encoder.encode_queries(["a"]))
    with pytest.raises(ValueError, match="encode again with"):
        explain(QUERY, hit, index=index, embedding=encoder.encode_queries([QUERY], heads=("dense",)))


# The document


@pytest.fixture
def found(encoder: M3Encoder) -> tuple[InMemoryHybridIndex, Hit]:
    index = index_of(encoder, Document(id="a", text=SENTENCES[0], metadata={"n": 1}))
    return index, HybridRetriever(index).search(QUERY)[0]


def test_a_document_that_was_deleted_or_changed_since_is_refused(found):
    index, hit = found
    for change in (
        lambda: index.upsert([replace(hit.document, text=SENTENCES[1])]),
        lambda: index.upsert([replace(hit.document, title="new")]),
        lambda: index.delete(["a"]),
    ):
        change()
        with pytest.raises(ValueError, match="document 'a' was deleted or changed since it was found; search again"):
            explain(QUERY, hit, index=index)


def test_new_metadata_change_no_explanation(found):
    index, hit = found
    before = explain(QUERY, hit, index=index)
    index.update_metadata({"a": {"n": 2}})
    assert explain(QUERY, hit, index=index) == before


def test_vectors_that_are_not_one_a_token_are_refused(encoder: M3Encoder):
    whole = encoder.encode_documents([SENTENCES[0]])
    pooled = replace(whole, multi_vector=MultiVectorEmbeddings.from_list([whole.multi_vector[0][::2]]))
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert([Document(id="a", text=SENTENCES[0])], embeddings=pooled)
    (hit,) = HybridRetriever(index).search(QUERY)
    with pytest.raises(ValueError, match="the document must have one vector a token, got"):
        explain(QUERY, hit, index=index)
    lexical = replace(hit, scores=replace(hit.scores, multi_vector=None))
    assert_adds_up(explain(QUERY, lexical, index=index))


def test_a_hit_without_scores_is_refused(found):
    index, hit = found
    with pytest.raises(ValueError, match="hit must have a score of dense, sparse, multi_vector, 'a' has none"):
        explain(QUERY, replace(hit, scores=HeadScores()), index=index)


def test_numbers_are_pythons_own(found):
    index, hit = found
    explanation = explain(QUERY, hit, index=index)
    rows = [*explanation.sparse, *explanation.multi_vector]
    values = [value for row in rows for value in vars(row).values()] + list(explanation.contributions.values())
    assert {type(value) for value in values} == {str, int, float}
    assert not any(isinstance(value, np.generic) for value in values)
