"""A long text is laid out as the whole of it would be, and told as cut if it is."""

import numpy as np
import pytest

from m3plugins import M3Encoder
from m3plugins.encoding.tokenizing import Layout, TextTokenizer
from tests.tiny import SENTENCES

LONG = {
    "sentences": " ".join(SENTENCES) * 200,
    "one word": "fox " * 30_000,
    "no spaces": SENTENCES[5] * 5000,
    "fits": "a fox" + " \u00a0" * 10 + "\u200b" * 3,
}


@pytest.mark.parametrize("prompt", ["", "query: "])
@pytest.mark.parametrize("mcls", [None, 7])
@pytest.mark.parametrize("kind", LONG)
def test_a_long_text_has_the_tokens_that_the_whole_has(encoder: M3Encoder, kind: str, mcls: int | None, prompt: str):
    layout = Layout(64, mcls, prompt)
    (found,) = TextTokenizer(encoder.tokenizer, layout).tokenize([LONG[kind]])
    whole = encoder.tokenizer.encode(prompt + LONG[kind]).ids
    cut = len(whole) - 2 > layout.text_tokens
    expected = layout.lay_out(np.array([*whole[: layout.text_tokens + 1], whole[-1]] if cut else whole), truncated=cut)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.truncated == cut == (kind != "fits")


def test_long_and_short_texts_keep_their_order(encoder: M3Encoder):
    texts = ["a fox", LONG["sentences"], "a dog", LONG["one word"]]
    tokenizer = TextTokenizer(encoder.tokenizer, Layout(64))
    together = [text.ids.tolist() for text in tokenizer.tokenize(texts)]
    assert together == [tokenizer.tokenize([text])[0].ids.tolist() for text in texts]


def test_a_panic_of_the_library_is_an_error_like_any_other(encoder: M3Encoder, monkeypatch):
    class PanicException(BaseException):
        pass

    class Panicking:
        def encode_batch(self, texts):
            raise PanicException("capacity overflow")

    tokenizer = TextTokenizer(encoder.tokenizer, Layout(64))
    monkeypatch.setattr(tokenizer, "_backend", Panicking())
    with pytest.raises(RuntimeError, match="the tokenizer failed: capacity overflow"):
        tokenizer.tokenize(["a fox"])
