"""What a long text is shortened to has the first tokens of the whole."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from m3plugins.encoding.shortening import Shortener, is_boundary
from tests.tiny import SENTENCES, train_tokenizer

WINDOW, RUN = 32, 96
MASK = AddedToken("<mask>", lstrip=True, special=True)


def unigram(pre_tokenizer: pre_tokenizers.PreTokenizer, *, scores: bool = False) -> Tokenizer:
    tokenizer = train_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizer
    if scores:
        choose = random.Random(0)
        pieces = [*(piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])), "aa", "aaa"]
        tokenizer.model = models.Unigram([(piece, -12 * choose.random()) for piece in dict.fromkeys(pieces)], unk_id=3)
    tokenizer.add_special_tokens(["<s>", "</s>", MASK])
    return tokenizer


def collapsing() -> Tokenizer:
    """As BGE-M3's file has it."""
    tokenizer = unigram(pre_tokenizers.Metaspace(), scores=True)
    spaces = normalizers.Replace(Regex(" {2,}"), "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False), spaces])
    return tokenizer


def wordpiece() -> Tokenizer:
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcfox!.,。狐犬ก-",
        *(f"##{c}" for c in "abcfoxกน"),
        "fox",
        "##ox",
        "the",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=12))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", MASK])
    return tokenizer


def byte_level(*, prefix: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(["<s>", MASK])
    return tokenizer


FAMILIES = {
    "unigram": unigram(pre_tokenizers.Metaspace()),
    "unigram, scored": unigram(pre_tokenizers.Metaspace(prepend_scheme="first"), scores=True),
    "unigram, spaces split": unigram(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), scores=True
    ),
    "unigram, spaces collapse": collapsing(),
    "wordpiece": wordpiece(),
    "byte level": byte_level(prefix=False),
    "byte level, prefixed": byte_level(prefix=True),
}

FRAGMENTS = [
    *("a", "b", "fox", "the ", "Fox", "x. ", "!", "?!", "...", "-", "_", "1", "2024 ", "don't", "don't "),
    *(" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "\u200b", "\u200d", "\x00", "\x1c", "\x85", "▁"),
    *("e\u0301", "\u0301", "\u0323", "\u0327\u0301", "ﬁ", "ﷺ", "\ufe70", "Å", "½", "ǆ", "İ", "ß", "Σ", "\u0345"),
    *("ᄀ", "ᅡ", "ᆨ", "가", "각", "ﾞ", "ｶﾞ", "か\u3099", "🇩", "🇪", "👩\u200d👩", "🏽", "❤\ufe0f", "☃"),
    *("狐", "犬の", "。", "、", "，", "\uf900", "สุนัข", "น้ำ", "ก", "क्षि", "\u0d4eക", "\u09be", "\U00016d63\U00016d67"),
    *("<s>", " <mask>", "<mask>", "[SEP]", "[S", "</s>", "<", "<ma", "sk>", "\U00013000", "\ufffd", "\ue000"),
    *SENTENCES,
]
texts = st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.sampled_from([1, 1, 1, 2, 3, 30, 150])), max_size=30).map(
    lambda parts: "".join(fragment * count for fragment, count in parts)
)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, tokens=st.integers(0, 60), window=st.sampled_from([1, 3, 16, WINDOW]))
@settings(max_examples=60)
@example(text="foo   <s>bar", tokens=9, window=1)
@example(text="a" * 150 + " fox", tokens=9, window=3)
@example(text="\U00013000" * 200 + "fox", tokens=9, window=16)
@example(text="ก" * 150 + "\u2028" + "fox " * 9, tokens=9, window=16)
def test_a_short_text_has_the_first_tokens_of_the_whole_one(family, text, tokens, window):
    tokenizer = FAMILIES[family]
    short, exact = Shortener(tokenizer, window=window, run=RUN).shorten(text, tokens)
    assert not exact or reads_alike(tokenizer, short, text, tokens)


def reads_alike(tokenizer: Tokenizer, short: str, text: str, tokens: int) -> bool:
    """Also in whether there are more tokens."""
    ids, whole = (tokenizer.encode(one, add_special_tokens=False).ids for one in (short, text))
    return ids[:tokens] == whole[:tokens] and (len(ids) > tokens) == (len(whole) > tokens)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        *((family, "the fox. " * 200) for family in FAMILIES),
        *((family, "\n".join(["fox"] * 400)) for family in ("unigram, spaces split", "wordpiece")),
        *(
            (family, "fox" + " " * 500 + "fox")
            for family in FAMILIES
            if family.endswith(("split", "collapse", "piece"))
        ),
        *((family, SENTENCES[9] * 20) for family in FAMILIES if family.startswith(("unigram,", "word"))),
        *((family, SENTENCES[5] * 20) for family in FAMILIES if family.startswith(("unigram,", "word"))),
        *(("wordpiece", text) for text in ("!" * 500, "?!." * 200, "a" * 500, "ก" * 500 + " fox", "。" * 500)),
    ],
)
def test_a_long_text_that_splits_somewhere_is_read_as_the_whole_is(family, text):
    short, exact = Shortener(FAMILIES[family], window=WINDOW, run=RUN).shorten(text, 8)
    assert exact and len(short) < len(text) and reads_alike(FAMILIES[family], short, text, 8)


def test_only_what_is_needed_is_tokenised():
    read: list[str] = []

    class Counting(Shortener):
        def _encode(self, text):
            read.append(text)
            return super()._encode(text)

    short, _ = Counting(FAMILIES["unigram"], window=WINDOW).shorten("the fox " * 10_000, 20)
    assert short == "".join(read) and len(short) < 200


def test_a_run_in_which_nothing_is_certain_ends_what_is_read():
    """Where the tokens of a run of one character begin depends on its length, as far away as its end is."""
    tokenizer = FAMILIES["unigram, scored"]
    assert Shortener(tokenizer, window=WINDOW, run=RUN).shorten("fox " + "a" * 10_000, 5) == (
        "fox" + (" " + "a" * 10_000)[:RUN],
        False,
    )


def test_nothing_is_taken_for_certain_of_a_pipeline_that_is_not_known():
    tokenizer = unigram(pre_tokenizers.Metaspace())
    tokenizer.normalizer = normalizers.Prepend("x ")
    shortener = Shortener(tokenizer, window=4, run=64)
    assert shortener.shorten("a fox", 2) == ("a fox", True)
    assert shortener.shorten("a fox " * 100, 2) == (("a fox " * 100)[:64], False)


@given(left=st.characters(exclude_categories=["Cs"]), right=st.characters(exclude_categories=["Cs"]))
@settings(max_examples=500)
def test_normalisation_does_not_reach_across_a_boundary(left, right):
    if is_boundary(left, right):
        for form in (normalizers.NFKC(), normalizers.NFC(), normalizers.NFD(), normalizers.Lowercase()):
            assert form.normalize_str(left + right) == form.normalize_str(left) + form.normalize_str(right)
