"""The part of a document that answers a query."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m3plugins import Document, HybridWeights, M3Encoder
from m3plugins.cli.snippets import Snippet, _whole, _window, snippet
from tests.tiny import SENTENCES

NOISE = "Retrieval finds the passages that answer a question. "


def found(
    encoder: M3Encoder, query: str, document: Document, weights: HybridWeights | None = None, **options
) -> Snippet:
    embedded = encoder.encode_queries([query])
    stored = encoder.encode_documents([document.content])
    return snippet(query, embedded, document, stored, encoder=encoder, weights=weights or HybridWeights(), **options)


@given(arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(0, 1, width=16)),
       st.integers(1, 12))  # fmt: skip
def test_no_other_window_scores_better(columns, tokens):
    first, last = _window(columns, tokens)
    assert last - first == min(tokens, len(columns))
    scores = [columns[i : i + tokens].max(axis=0).sum() for i in range(max(1, len(columns) - tokens + 1))]
    assert columns[first:last].max(axis=0).sum() == pytest.approx(max(scores))


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("title", ["", "Fox and dog"])
def test_the_sentence_that_was_asked_for_is_shown_in_every_script(encoder: M3Encoder, sentence: str, title: str):
    text = NOISE * 12 + sentence + " " + NOISE * 12
    weights = HybridWeights(
        dense=0, sparse=1, multi_vector=0
    )  # of random weights, what is shared alone means something
    part = found(encoder, sentence, Document(id="a", text=text, title=title), weights)
    begin = text.index(sentence)
    assert part.start < begin + len(sentence) and begin < part.end
    assert part.text == text[part.start : part.end]
    assert len(part.text) < len(text) / 2 or sentence.startswith("Retrieval")
    assert part.matches and all(part.start <= start < end <= part.end for start, end in part.matches)


def test_a_token_vector_alone_finds_its_place(encoder: M3Encoder):
    text = NOISE * 12 + SENTENCES[4] + " " + NOISE * 12
    document = Document(id="a", text=text)
    weights = HybridWeights(dense=0, sparse=0, multi_vector=1)
    stored = encoder.encode_documents([document.content])
    spans = encoder.tokenizer.encode(document.content, add_special_tokens=False).offsets
    row = next(i for i, (_, end) in enumerate(spans) if end > text.index("лиса"))
    embedded = encoder.encode_queries(["fox"])  # which shares no word with it
    embedded.multi_vector.vectors[:] = stored.multi_vector.vectors[row]
    part = snippet("fox", embedded, document, stored, encoder=encoder, weights=weights, tokens=8)
    assert "лиса" in {text[start:end] for start, end in part.matches}


def test_matches_are_those_of_the_words_that_are_shared(encoder: M3Encoder):
    text = NOISE * 5 + "Over there a hedgehog sleeps. " + NOISE * 5
    part = found(encoder, "hedgehog", Document(id="a", text=text), HybridWeights(dense=0, multi_vector=0))
    assert "hedgehog" in {text[start:end] for start, end in part.matches}


def test_a_prompt_is_read_and_not_shown(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, document_prompt="passage: ", query_prompt="query: ")
    for text in (f"   {SENTENCES[0]}", NOISE * 12 + SENTENCES[0] + NOISE * 12):
        part = found(encoder, "lazy dog", Document(id="a", text=text), HybridWeights(dense=0, multi_vector=0))
        assert part.text == text[part.start : part.end] and "lazy dog" in part.text
        assert "dog" in " ".join(text[start:end] for start, end in part.matches)


@pytest.mark.parametrize("text", ["", " \n", "a", "  fox  ", SENTENCES[0]])
@pytest.mark.parametrize("title", ["", " ", "T"])
def test_a_short_text_is_shown_whole(encoder: M3Encoder, text: str, title: str):
    part = found(encoder, "fox", Document(id="a", text=text, title=title))
    assert part.text.strip() == text.strip()
    assert part.text == text[part.start : part.end]


def test_without_embeddings_the_beginning_is_shown(encoder: M3Encoder):
    document = Document(id="a", text=NOISE * 40)
    part = snippet("fox", encoder.encode_queries(["fox"]), document, None, encoder=encoder, weights=HybridWeights())
    assert part.start == 0 and part.matches == () and 100 < part.end < len(document.text)


def test_what_the_model_did_not_read_is_found_by_its_words(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, document_max_length=32)
    text = "quick " + NOISE * 12 + SENTENCES[2]
    assert found(encoder, SENTENCES[2], Document(id="a", text=text)).text  # no vector there: no error


def test_nothing_is_encoded(encoder: M3Encoder, passes: list[str]):
    embedded, stored = encoder.encode_queries(["fox"]), encoder.encode_documents([SENTENCES[0]])
    passes.clear()
    snippet("fox", embedded, Document(id="a", text=SENTENCES[0]), stored, encoder=encoder, weights=HybridWeights())
    assert passes == []


@given(st.text(max_size=30), st.data())
def test_words_are_whole_where_scripts_have_case(text, data):
    start = data.draw(st.integers(0, len(text)))
    first, last = _whole(text, start, data.draw(st.integers(start, len(text))))
    assert 0 <= first <= last <= len(text)
    for edge in (first, last):
        if 0 < edge < len(text) and first < last:
            assert not (text[edge - 1].lower() != text[edge - 1].upper() and text[edge].lower() != text[edge].upper())
