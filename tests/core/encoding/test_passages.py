"""Passages: within their size, nothing lost, whole sentences, any script, any string."""

import sys
from bisect import bisect
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from m3plugins import M3Encoder
from m3plugins.encoding import Passages
from m3plugins.encoding import passages as passages_module
from m3plugins.encoding.tokenizing import Layout
from tests.tiny import SENTENCES

HOSTILE = [
    "<s>",
    "</s>",
    "<pad>",
    "👨‍👩‍👧‍👦",
    "e\u0301",
    "\u200b",
    "\x00",
    "\ufdfa",
    "x" * 120,
    "。”",
    '."',
    "\n\n",
    " " * 40,
    "\t",
]


class Counter:
    """What `Passages` needs of an encoder: a tokenizer and the room for text."""

    model = "counter"
    document_layout = Layout(8192)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def byte_level() -> Tokenizer:
    """A tokenizer of GPT's kind: a character may be several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES[:4], trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """A tokenizer of BERT's kind: lower case, no accents, a word beyond 100 characters is one unknown token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def unigram(encoder: M3Encoder) -> Counter:
    return Counter(encoder.tokenizer)


@pytest.fixture(scope="module", params=["unigram", "byte level", "word piece"])
def counter(request: pytest.FixtureRequest, unigram: Counter) -> Counter:
    made = {"byte level": byte_level, "word piece": word_piece}
    return Counter(made[request.param]()) if request.param in made else unigram


pieces = st.one_of(st.sampled_from(SENTENCES), st.sampled_from(HOSTILE), st.text(max_size=60))
texts = st.builds(str.join, st.sampled_from(["", " ", "\n"]), st.lists(pieces, max_size=25))


@st.composite
def settings(draw: st.DrawFn) -> Passages:
    size = draw(st.integers(1, 80))
    return Passages(size, draw(st.integers(0, size - 1)))


def covers(text: str, parts: list[str]) -> bool:
    """Whether the passages can be laid over the text in order so that only whitespace stays bare."""
    ends = [0]
    for part in parts:
        places = (at for at in range(max(0, ends[0] - len(part)), len(text)) if text.startswith(part, at))
        bare_from = {at: len(text[:at].rstrip()) for at in places}
        # After an end at or beyond `bare_from` comes whitespace or the passage, which must add something.
        ends = [
            at + len(part)
            for at, bare in bare_from.items()
            if bisect(ends, at + len(part) - 1) > bisect(ends, bare - 1)
        ]
        if not ends:
            return False
    return ends[-1] == len(text.rstrip())


@given(text=texts, passages=settings())
def test_no_passage_has_more_tokens_than_size(counter: Counter, text: str, passages: Passages):
    for part in passages.split(text, counter):
        assert counter.tokens(part) <= passages.size or len(part) == 1


@given(text=texts, passages=settings())
def test_nothing_is_lost_but_whitespace_between_passages(counter: Counter, text: str, passages: Passages):
    parts = passages.split(text, counter)
    if text.strip():
        assert all(part and part == part.strip() for part in parts)
        assert covers(text, parts)
    else:
        assert parts == [""]


@given(text=texts, size=st.integers(1, 80))
def test_without_overlap_the_passages_are_the_text(counter: Counter, text: str, size: int):
    assert "".join("".join(Passages(size).split(text, counter)).split()) == "".join(text.split())


@given(text=texts, passages=settings(), window=st.sampled_from([1, 16, 64]))
def test_a_long_text_is_cut_window_by_window_within_size_and_without_loss(counter, text, passages, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages_module, "_WINDOW_CHARACTERS", window)
        patch.setattr(passages_module, "_CHARACTERS_PER_TOKEN", 1)
        spans = passages.spans(text, counter)
    assert spans == sorted(set(spans))
    covered = {at for start, end in spans for at in range(start, end)}
    assert {at for at, character in enumerate(text) if not character.isspace()} <= covered
    assert all(counter.tokens(text[a:b]) <= passages.size or b - a == 1 for a, b in spans)


def test_no_more_than_a_window_of_a_long_text_is_tokenised_at_a_time(counter: Counter, monkeypatch):
    seen: list[int] = []
    tokenizer = counter.tokenizer

    class Watched:
        def encode(self, text, **options):
            seen.append(len(text))
            return tokenizer.encode(text, **options)

        def encode_batch_fast(self, texts, **options):
            seen.append(sum(map(len, texts)))
            return tokenizer.encode_batch_fast(texts, **options)

    monkeypatch.setattr(passages_module, "_WINDOW_CHARACTERS", 2000)
    text = " ".join(SENTENCES * 30)
    with monkeypatch.context() as patch:
        patch.setattr(counter, "tokenizer", Watched())
        spans = Passages(40).spans(text, counter)
    assert max(seen) <= 2000 < len(text) and len(spans) > 100


@given(text=texts, passages=settings(), data=st.data())
def test_with_headings_the_spans_still_cover_all_but_whitespace(counter: Counter, text: str, passages: Passages, data):
    headings = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    spans = passages.spans(text, counter, headings)
    assert spans == sorted(spans)
    covered = {at for start, end in spans for at in range(start, end)}
    assert {at for at, character in enumerate(text) if not character.isspace()} <= covered
    for start, end in spans:
        assert text[start:end] == text[start:end].strip()
        assert counter.tokens(text[start:end]) <= passages.size or end - start == 1


@given(text=texts, passages=settings(), data=st.data())
def test_a_passage_runs_over_a_heading_only_after_less_than_a_quarter(
    counter: Counter, text: str, passages: Passages, data
):
    for heading in (headings := data.draw(st.lists(st.integers(0, len(text)), max_size=8))):
        for start, end in passages.spans(text, counter, headings):
            if start < heading < end:
                assert 4 * counter.tokens(text[start:heading].strip()) < passages.size or any(
                    start < other < heading for other in headings
                )


def test_sections_are_passages_and_small_ones_share_one(unigram: Counter):
    sections = [f"# {name}\n{sentence}" for name, sentence in zip("ABCD", SENTENCES[:4], strict=True)]
    text = "\n\n".join(sections)
    headings = [text.index(section) for section in sections]
    size = 2 * max(map(unigram.tokens, sections))
    assert [text[a:b] for a, b in Passages(size, size // 2).spans(text, unigram, headings)] == sections
    assert len(Passages(4 * size).spans(text, unigram, headings)) < len(sections)
    assert Passages(size).spans(text, unigram) != Passages(size).spans(text, unigram, headings)


@given(order=st.permutations(SENTENCES), size=st.integers(32, 120), overlap=st.integers(0, 31))
def test_overlap_has_at_most_that_many_tokens(counter: Counter, order: list[str], size: int, overlap: int):
    parts = Passages(size, overlap).split(" ".join(order), counter)
    for before, after in pairwise(parts):
        repeated = next(n for n in range(min(len(before), len(after)), -1, -1) if before.endswith(after[:n]))
        assert repeated <= 1 or counter.tokens(after[:repeated].strip()) <= overlap


@given(order=st.permutations(SENTENCES), size=st.integers(64, 200), overlap=st.integers(0, 63))
def test_a_sentence_that_fits_is_never_cut(unigram: Counter, order: list[str], size: int, overlap: int):
    ended = [sentence for sentence in order if not sentence.startswith("สุ")]  # Thai does not mark its sentences
    for part in Passages(size, overlap).split(" ".join(ended), unigram):
        while part:
            sentence = next(sentence for sentence in ended if part.startswith(sentence))
            part = part.removeprefix(sentence).lstrip()


def test_passages_are_filled(unigram: Counter):
    parts = Passages(128).split(" ".join(SENTENCES * 5), unigram)
    longest = max(map(unigram.tokens, SENTENCES))
    assert min(map(unigram.tokens, parts[:-1])) > 128 - 2 * longest


def test_overlap_is_the_last_sentences_where_they_fit(unigram: Counter):
    numbered = [f"This is {name}." for name in ("one", "two", "three", "four", "five", "six", "seven", "eight")]
    longest = max(map(unigram.tokens, numbered))
    parts = Passages(3 * longest, longest).split(" ".join(numbered), unigram)
    assert len(parts) > 1
    for before, after in pairwise(parts):
        assert before.rsplit(". ")[-1] == after.split(". ")[0] + "."


def test_overlap_gives_way_to_the_next_sentence(unigram: Counter):
    short, long = "Yes.", SENTENCES[0]
    size = unigram.tokens(long)
    assert Passages(size, size - 1).split(f"{short} {long}", unigram) == [short, long]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith met J. K. Rowling. They spoke.", ["Dr. Smith met J. K. Rowling.", "They spoke."]),
        ("狐狸跑了。狗睡着了！", ["狐狸跑了。", "狗睡着了！"]),
        ("犬が寝る。狐が走る。", ["犬が寝る。", "狐が走る。"]),
        ("هل نام الكلب؟ ركض الثعلب.", ["هل نام الكلب؟", "ركض الثعلب."]),
        ("कुत्ता सोया। लोमड़ी भागी।", ["कुत्ता सोया।", "लोमड़ी भागी।"]),
        ("# A title\n- the first item\n- the second", ["# A title", "- the first item", "- the second"]),
    ],
)
def test_sentences_of_many_scripts_end_passages(unigram: Counter, text: str, expected: list[str]):
    assert Passages(max(map(unigram.tokens, expected))).split(text, unigram) == expected


def test_a_long_sentence_is_cut_ahead_of_words(unigram: Counter):
    text = "the quick, brown fox jumps over the lazy dog " * 9
    parts = Passages(20).split(text, unigram)
    assert len(parts) > 5
    assert " ".join(parts) == text.strip()


def test_scripts_without_spaces_are_cut_between_whole_letters(unigram: Counter):
    import regex

    thai = SENTENCES[9] * 5
    assert [c for part in Passages(20).split(thai, unigram) for c in regex.findall(r"\X", part)] == regex.findall(
        r"\X", thai
    )


def test_a_text_that_fits_is_one_passage_without_the_whitespace_around(unigram: Counter):
    assert Passages(64).split(f"\n {SENTENCES[0]}  ", unigram) == [SENTENCES[0]]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t\u3000"])
def test_a_blank_text_gives_one_empty_passage(encoder: M3Encoder, text: str):
    assert Passages(64, 8).split(text, encoder) == [""]


def test_the_encoder_reads_whole_passages(checkpoint: Path):
    encoder = M3Encoder.from_pretrained(checkpoint, document_max_length=34)
    parts = Passages(32, 8).split(" ".join(SENTENCES), encoder)
    output = encoder.encode_documents(parts)
    assert not output.truncated.any()
    assert output.token_counts.max() <= 34


@pytest.mark.parametrize(("mcls", "longest"), [(None, 62), (20, 60)])
def test_a_size_that_the_encoder_would_cut_is_refused(checkpoint: Path, mcls: int | None, longest: int):
    encoder = M3Encoder.from_pretrained(checkpoint, document_max_length=64, mcls=mcls)
    assert Passages(longest).split("x", encoder) == ["x"]
    with pytest.raises(ValueError, match=rf"size must be at most {longest}, .* got {longest + 1}; take a smaller size"):
        Passages(longest + 1).split("x", encoder)


def test_threads_cut_alike(encoder: M3Encoder):
    text = " ".join(SENTENCES * 20)
    with ThreadPoolExecutor(4) as pool:
        cuts = list(pool.map(lambda _: Passages(64, 16).split(text, encoder), range(8)))
    assert all(cut == cuts[0] for cut in cuts)


def test_slabs_do_not_show(unigram: Counter, monkeypatch: pytest.MonkeyPatch):
    text = " ".join(SENTENCES * 3)
    whole = Passages(64, 16).split(text, unigram)
    monkeypatch.setattr(passages_module, "_SLAB_CHARACTERS", 150)
    assert Passages(64, 16).split(text, unigram) == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "size must be an integer >= 1"),
        ((True,), "size must be an integer >= 1"),
        ((64.0,), "size must be an integer >= 1"),
        ((64, -1), "overlap must be an integer >= 0"),
        ((64, None), "overlap must be an integer >= 0"),
        ((64, 64), "overlap must be less than size, got overlap=64 and size=64"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Passages(*arguments)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [(b"x", TypeError, "texts must be strings, got bytes"), ("a\ud800", ValueError, "lone surrogate at character 1")],
)
def test_bad_texts_are_refused(encoder: M3Encoder, text, error, message):
    with pytest.raises(error, match=message):
        Passages(64).split(text, encoder)


def test_without_the_extra_the_error_names_the_command(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(ImportError, match=r'pip install "m3plugins\[passages\]"'):
        Passages(64).split("", encoder)
