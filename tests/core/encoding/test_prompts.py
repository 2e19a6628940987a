"""Prompts: read ahead of every text, whoever encodes; the checkpoint's own or those given; part of the identity."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from m3plugins import M3Encoder, M3Output, ModelMismatchError
from m3plugins.encoding import Passages
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.sentence_transformers import Prompts, save_prompts
from m3plugins.indexing.identity import Identity
from m3plugins.reranking import M3Reranker
from tests.tiny import SENTENCES

QUERY, DOCUMENT = "Find the fox: ", "passage: "
STATED = Prompts(query=QUERY, document=DOCUMENT)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture(scope="module")
def prompted(checkpoint: Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint, query_prompt=QUERY, document_prompt=DOCUMENT)


def ahead(prompt: str) -> list[str]:
    return [prompt + text for text in SENTENCES]


def assert_same(left: M3Output, right: M3Output) -> None:
    np.testing.assert_array_equal(left.dense, right.dense)
    np.testing.assert_array_equal(left.sparse.to_scipy().toarray(), right.sparse.to_scipy().toarray())
    np.testing.assert_array_equal(left.multi_vector.vectors, right.multi_vector.vectors)


# What is read


def test_a_prompt_is_read_as_if_it_were_written_ahead_of_the_text(encoder: M3Encoder, prompted: M3Encoder):
    assert_same(prompted.encode_queries(SENTENCES), encoder.encode_queries(ahead(QUERY)))
    assert_same(prompted.encode_documents(SENTENCES), encoder.encode_documents(ahead(DOCUMENT)))


def test_streams_and_the_memo_read_it_too(prompted: M3Encoder):
    queries, documents = prompted.encode_queries(SENTENCES), prompted.encode_documents(SENTENCES)
    assert_same(M3Output.concatenate(list(prompted.iter_queries(SENTENCES))), queries)
    assert_same(M3Output.concatenate(list(prompted.iter_documents(SENTENCES))), documents)
    assert_same(prompted.memo.encode_queries(SENTENCES), queries)
    assert_same(prompted.memo.encode_documents(SENTENCES), documents)


def test_a_memo_tells_queries_from_documents_of_the_same_length(checkpoint: Path):
    encoder = M3Encoder.from_pretrained(checkpoint, document_max_length=512, query_prompt=QUERY)
    assert encoder.query_max_length == encoder.document_max_length
    as_document, as_query = encoder.memo.encode_documents(["fox"]), encoder.memo.encode_queries(["fox"])
    assert not np.array_equal(as_document.dense, as_query.dense)


def test_a_reranker_reads_both_prompts(encoder: M3Encoder, prompted: M3Encoder):
    scores = M3Reranker(prompted).score("the dog", SENTENCES)
    np.testing.assert_allclose(scores, M3Reranker(encoder).score(f"{QUERY}the dog", ahead(DOCUMENT)), atol=1e-5)


def test_the_prompt_counts_for_the_length(checkpoint: Path, encoder: M3Encoder):
    whole = len(encoder.tokenizer.encode(DOCUMENT + SENTENCES[0]))
    for length, cut in ((whole, False), (whole - 1, True)):
        short = M3Encoder.from_pretrained(checkpoint, document_prompt=DOCUMENT, document_max_length=length)
        output = short.encode_documents([SENTENCES[0]])
        assert (output.truncated.tolist(), output.token_counts.tolist()) == ([cut], [length])


def test_a_prompt_that_leaves_no_room_is_refused(checkpoint: Path):
    encoder = M3Encoder.from_pretrained(checkpoint, query_prompt=QUERY, query_max_length=4)
    with pytest.raises(ValueError, match="'Find the fox: ' fills the 2 tokens that a maximum length of 4 has"):
        encoder.encode_queries(["dog"])


def test_the_longest_passages_leave_room_for_the_prompt(checkpoint: Path):
    encoder = M3Encoder.from_pretrained(checkpoint, document_prompt=DOCUMENT, document_max_length=24)
    room = 22 - len(encoder.tokenizer.encode(DOCUMENT, add_special_tokens=False))
    pieces = Passages(size=room).split(" ".join(SENTENCES), encoder)
    output = encoder.encode_documents(pieces)
    assert 20 < output.token_counts.max() <= 24
    assert not output.truncated.any()
    with pytest.raises(ValueError, match=f"size must be at most {room}"):
        Passages(size=room + 1).split("fox", encoder)


# What the checkpoint says


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Prompts()),
        ({"__version__": {"sentence_transformers": "2.2.2"}}, Prompts()),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, Prompts()),
        ({"prompts": {"query": "q: ", "document": "d: "}}, Prompts("q: ", "d: ")),
        ({"prompts": {"query": "q: ", "passage": "p: ", "corpus": "c: "}}, Prompts("q: ", "p: ")),
        ({"prompts": {"s2s": "x: "}, "default_prompt_name": "s2s"}, Prompts("x: ", "x: ")),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, Prompts("q: ", "q: ")),
        ({"prompts": {"query": "q: ", "document": None}, "default_prompt_name": "query"}, Prompts("q: ", "")),
        ({"prompts": {"clustering": "x: "}}, Prompts()),
    ],
)
def test_prompts_are_chosen_as_sentence_transformers_chooses_them(copy: Path, config: dict, expected: Prompts):
    (copy / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert M3Encoder.from_pretrained(copy).prompts == expected


def test_what_is_saved_is_read_and_the_rest_of_the_file_stays(copy: Path):
    path = copy / "config_sentence_transformers.json"
    path.write_text(json.dumps({"similarity_fn_name": "cosine", "prompts": {"query": "old", "s2s": "x"}}))
    save_prompts(copy, Prompts("Frage: ", "狐: "))
    assert Checkpoint(copy).prompts == Prompts("Frage: ", "狐: ")
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert (saved["similarity_fn_name"], saved["prompts"]["s2s"]) == ("cosine", "x")


def test_given_prompts_go_before_the_checkpoints_also_the_empty_one(copy: Path):
    save_prompts(copy, STATED)
    encoder = M3Encoder.from_pretrained(copy, query_prompt="")
    assert encoder.prompts == Prompts("", DOCUMENT)
    assert encoder.query_layout.prompt == ""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prompts": {"query": 3}}, "the query prompt must be a string of valid Unicode, got 3"),
        ({"prompts": {"query": "q"}, "default_prompt_name": "x"}, r"default_prompt_name must be one of \['query'\]"),
    ],
)
def test_prompts_that_are_none_are_refused(copy: Path, config: dict, message: str):
    (copy / "config_sentence_transformers.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        M3Encoder.from_pretrained(copy).warm_up()


@pytest.mark.parametrize("prompt", [3, b"query: ", ["query: "], "\ud800"])
def test_bad_prompts_are_refused_before_anything_loads(prompt: object):
    with pytest.raises(ValueError, match="the document prompt must be a string of valid Unicode, got"):
        M3Encoder.from_pretrained("no/such-model", document_prompt=prompt)


def test_a_model_that_leaves_prompts_out_of_its_dense_vectors_takes_none(copy: Path):
    (copy / "1_Pooling").mkdir()
    config = {"pooling_mode": "mean", "include_prompt": False}
    (copy / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert M3Encoder.from_pretrained(copy).warm_up().prompts == Prompts()
    with pytest.raises(ValueError, match="include_prompt=false"):
        M3Encoder.from_pretrained(copy, query_prompt=QUERY).warm_up()


# Who it is


def test_without_prompts_the_former_fingerprint_is_what_it_was_before_there_were_any():
    mini = M3Encoder.from_pretrained("m3-mini")
    assert mini.former_fingerprint == "e038e913984d3bf844374086611c6359b5fd78bbc2a86dc877a83a0866cf6950"


def test_the_fingerprint_changes_with_each_prompt_and_not_with_who_states_it(copy: Path, prompted: M3Encoder):
    def fingerprint(**prompts: str) -> str:
        return M3Encoder.from_pretrained(copy, **prompts).fingerprint

    plain, swapped = fingerprint(), fingerprint(query_prompt=DOCUMENT, document_prompt=QUERY)
    assert len({plain, swapped, fingerprint(query_prompt="x"), fingerprint(document_prompt="x")}) == 4
    save_prompts(copy, STATED)
    assert fingerprint() == prompted.fingerprint
    assert fingerprint(query_prompt="", document_prompt="") == plain


def test_an_index_made_with_other_prompts_is_refused(encoder: M3Encoder, prompted: M3Encoder):
    identity = Identity.of(prompted)
    identity.check(prompted, "docs")
    with pytest.raises(ModelMismatchError):
        identity.check(encoder, "docs")
