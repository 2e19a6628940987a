"""Facts of large texts are those that copies of them would tell."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import Document
from m3plugins.encoding import text as text_module
from m3plugins.encoding.text import is_blank, lone_surrogate, slabs, stripped, utf8_length

any_text = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(' \n\u00a0\u2028"\\\x1f')), max_size=40
)


@pytest.fixture(autouse=True, scope="module")
def small_slabs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module.slabs, "__defaults__", (3,))
        patch.setattr(text_module, "_LINE", 3)
        yield


@given(any_text, st.data())
def test_a_span_is_stripped_as_a_copy_is(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    first, last = stripped(text, start, end)
    assert text[first:last] == text[start:end].strip() and start <= first <= last <= end
    assert is_blank(text, start, end) == (not text[start:end].strip())


@given(any_text)
def test_slabs_are_the_text_and_its_length_in_bytes_is_theirs(text):
    assert "".join(slabs(text)) == text
    assert utf8_length(text) == len(text.encode())
    assert lone_surrogate(text) is None
    assert lone_surrogate(text + "\udc00a\udc00") == len(text)


@given(any_text, any_text)
def test_a_document_has_the_digest_that_it_always_had(title, text):
    """Of indexes that are there: it says whether a document is unchanged."""
    canonical = json.dumps([title, text, ""], sort_keys=True, ensure_ascii=False).encode()
    digest = Document(id="a", text=text, title=title).digest()
    assert digest.content == hashlib.blake2b(canonical, digest_size=16).hexdigest()
