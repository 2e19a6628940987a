"""The encoder beyond parity: order, streams, heads, lengths, threads, devices, bad input."""

import copy
import json
import logging
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from m3plugins import Document, InMemoryHybridIndex, M3Encoder, M3Output
from m3plugins.encoding import loaded as loaded_module
from m3plugins.encoding import tokenizing
from m3plugins.encoding.probes import TEXTS as TEXTS_OF_PROBES
from tests.tiny import SENTENCES

MIXED = [sentence[: 5 + 7 * i] for i, sentence in enumerate(SENTENCES * 3)] + ["", SENTENCES[0] * 9]


def assert_same(left: M3Output, right: M3Output, atol: float = 1e-6):
    np.testing.assert_allclose(left.dense, right.dense, atol=atol)
    assert left.sparse.indptr.tolist() == right.sparse.indptr.tolist()
    assert left.sparse.indices.tolist() == right.sparse.indices.tolist()
    np.testing.assert_allclose(left.sparse.values, right.sparse.values, atol=10 * atol)
    assert left.multi_vector.offsets.tolist() == right.multi_vector.offsets.tolist()
    np.testing.assert_allclose(left.multi_vector.vectors, right.multi_vector.vectors, atol=atol)


def test_batching_does_not_change_results_or_their_order(checkpoint: Path):
    whole = M3Encoder.from_pretrained(checkpoint).encode_documents(MIXED)
    one_by_one = M3Encoder.from_pretrained(checkpoint, batch_tokens=3).encode_documents(MIXED)
    assert_same(whole, one_by_one)
    assert_same(whole[4], M3Encoder.from_pretrained(checkpoint).encode_documents([MIXED[4]]))


def test_stream_equals_list_across_windows_and_slabs(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch):
    whole = encoder.encode_documents(MIXED)
    monkeypatch.setattr(loaded_module, "WINDOW_TOKENS", 100)
    monkeypatch.setattr(tokenizing, "SLAB_TEXTS", 5)
    parts = list(encoder.iter_documents(iter(MIXED)))
    assert len(parts) > 3
    assert_same(M3Output.concatenate(parts), whole)


def test_stream_reads_its_input_as_it_goes(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loaded_module, "WINDOW_TOKENS", 60)
    monkeypatch.setattr(tokenizing, "SLAB_TEXTS", 2)
    read = []
    stream = encoder.iter_documents(read.append(i) or SENTENCES[i % 12] for i in range(1000))
    next(stream)
    assert 1 <= len(read) < 20
    stream.close()


def test_heads_not_asked_for_are_none(encoder: M3Encoder):
    output = encoder.encode_queries(SENTENCES[:2], heads=("sparse",))
    assert output.heads == ("sparse",)
    assert output.dense is None
    assert output.multi_vector is None


def test_dense_and_multi_vectors_are_unit_rows_without_a_vector_for_cls(encoder: M3Encoder):
    output = encoder.encode_documents(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(output.dense, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(output.multi_vector.vectors, axis=1), 1, atol=1e-5)
    assert [len(vectors) for vectors in output.multi_vector] == (output.token_counts - 1).tolist()


def test_special_tokens_carry_no_sparse_weight(encoder: M3Encoder):
    sparse = encoder.encode_documents(["<s> </s> <pad> <unk> fox 𓀀"]).sparse[0]
    assert len(sparse)
    assert not {0, 1, 2, 3} & sparse.to_dict().keys()


def test_queries_and_documents_are_cut_to_their_own_lengths(checkpoint: Path, caplog: pytest.LogCaptureFixture):
    encoder = M3Encoder.from_pretrained(checkpoint, query_max_length=8, document_max_length=16)
    with caplog.at_level(logging.WARNING, "m3plugins"):
        assert encoder.encode_queries(["fox " * 99, "x"]).token_counts.tolist()[0] == 8
        assert encoder.encode_documents(["fox " * 99, "x"]).truncated.tolist() == [True, False]
    assert "1 of 2 texts were longer than 16 tokens and were cut" in caplog.text


def test_document_length_beyond_the_model_is_refused(checkpoint: Path):
    with pytest.raises(ValueError, match="document_max_length must be at most 8192"):
        M3Encoder.from_pretrained(checkpoint, document_max_length=9000).encode_documents(["x"])


def test_no_texts_give_empty_output(encoder: M3Encoder):
    output = encoder.encode_documents([])
    assert len(output) == 0
    assert output.dense.shape == (0, 32)
    assert output.multi_vector.vectors.shape == (0, 32)
    assert list(encoder.iter_documents([])) == []


def test_threads_share_one_encoder(checkpoint: Path):
    encoder = M3Encoder.from_pretrained(checkpoint)  # not loaded: the threads race for that too
    expected = M3Encoder.from_pretrained(checkpoint).encode_documents(MIXED)
    outputs: list[M3Output] = []
    threads = [threading.Thread(target=lambda: outputs.append(encoder.encode_documents(MIXED))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 4
    for output in outputs:
        assert_same(output, expected)


def test_several_devices_give_the_same_output(checkpoint: Path):
    one = M3Encoder.from_pretrained(checkpoint, devices="cpu", batch_tokens=64)
    two = M3Encoder.from_pretrained(checkpoint, devices=["cpu", "cpu"], batch_tokens=64)
    assert_same(two.encode_documents(MIXED), one.encode_documents(MIXED))


def test_bfloat16_is_close_and_comes_back_as_float32(checkpoint: Path, encoder: M3Encoder):
    half = M3Encoder.from_pretrained(checkpoint, dtype="bfloat16").encode_documents(SENTENCES)
    assert half.dense.dtype == half.multi_vector.vectors.dtype == half.sparse.values.dtype == np.float32
    assert (half.dense * encoder.encode_documents(SENTENCES).dense).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one string", TypeError, "put it in a list"),
        (["a", None], TypeError, "got NoneType at position 1"),
        (["a", b"b"], TypeError, "got bytes at position 1"),
        (["ok", "bad \ud800 text"], ValueError, "text 1 must be valid Unicode, got a lone surrogate at character 4"),
    ],
)
def test_bad_texts_are_refused_with_their_position(encoder: M3Encoder, texts, error, message):
    with pytest.raises(error, match=message):
        encoder.encode_documents(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype must be one of"),
        ({"backend": "jax"}, "backend must be"),
        ({"query_max_length": 2}, "query_max_length must be an integer >= 3"),
        ({"document_max_length": True}, "document_max_length must be an integer >= 3"),
        ({"query_max_length": None}, "query_max_length must be an integer >= 3"),
        ({"devices": []}, "devices must name at least one device"),
        ({"devices": 0}, "devices must name .* got 0"),
        ({"devices": "cuda:0,cuda:1"}, "devices must name .* got 'cuda:0,cuda:1'"),
        ({"revision": 5}, "revision must be a branch, tag or commit, got 5"),
    ],
)
def test_bad_options_are_refused_before_anything_loads(options, message):
    with pytest.raises(ValueError, match=message):
        M3Encoder.from_pretrained("no/such/model", **options)


def test_unknown_heads_are_refused(encoder: M3Encoder):
    with pytest.raises(ValueError, match="heads must be one or more of dense, sparse, multi_vector"):
        encoder.encode_documents(["x"], heads=["colbert"])


def test_unknown_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="check the name and the network, or give a folder"):
        M3Encoder.from_pretrained("no/such-model").warm_up()


@pytest.mark.parametrize("model", ["no/such-model", "m3-mini"])
def test_constructor_loads_nothing(model: str):
    encoder = M3Encoder.from_pretrained(model)
    assert encoder.name == model in repr(encoder)
    assert "checkpoint" not in vars(encoder)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("m3mini", FileNotFoundError, "no model 'm3mini': did you mean 'm3-mini'"),
        ("bge-m3", FileNotFoundError, "did you mean 'BAAI/bge-m3'"),
        ("typo", FileNotFoundError, "it is no folder here, and a hub id is owner/name"),
        ("./tuned", FileNotFoundError, "no model './tuned'"),
        ("~/tuned", FileNotFoundError, "no model '~/tuned'"),
        ("/no/such/folder", FileNotFoundError, "no model '/no/such/folder'"),
        (Path("no/such"), FileNotFoundError, "it is no folder here"),
        (__file__, FileNotFoundError, "it is a file; give the folder that holds it"),
        ("", FileNotFoundError, "no model ''"),
        ("s3://bucket/model", ValueError, "a service is named by http"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_what_can_be_no_model_is_refused_at_once(model: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        M3Encoder.from_pretrained(model)


def test_a_folder_that_cannot_do_what_the_options_ask_is_refused_at_once(checkpoint: Path):
    with pytest.raises(ValueError, match="document_max_length must be at most 8192"):
        M3Encoder.from_pretrained(checkpoint, document_max_length=9000)


def test_its_name_is_the_folders_without_the_path(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(checkpoint)
    assert {M3Encoder.from_pretrained(folder).name for folder in (checkpoint, ".")} == {checkpoint.name}


def test_output_kept_by_the_user_does_not_pin_the_batch(encoder: M3Encoder):
    output = encoder.encode_documents(SENTENCES)
    assert output.multi_vector[0].base is None
    assert output[2:4].multi_vector.vectors.base is None
    assert output.sparse[0].values.base is None


def test_pickled_it_reads_its_model_anew(encoder):
    again = pickle.loads(pickle.dumps(encoder))
    assert again is not encoder and again.options == encoder.options
    assert_same(again.encode_queries(["fox"]), encoder.encode_queries(["fox"]))
    assert copy.deepcopy(encoder) is encoder


@pytest.mark.parametrize(
    ("head", "name", "rows"), [("sparse", "sparse_linear.pt", 1), ("multi_vector", "colbert_linear.pt", 8)]
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_whose_head_gives_no_numbers_is_refused_when_it_is_loaded(
    checkpoint: Path, tmp_path: Path, head: str, name: str, rows: int, value: float
):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    torch.save({"weight": torch.full((rows, 32), value), "bias": torch.ones(rows)}, folder / name)
    with pytest.raises(ValueError, match=f"the {head} head gave NaN or infinity: the weights of {folder} are damaged"):
        M3Encoder.from_pretrained(folder).warm_up()


def test_a_model_whose_token_vectors_have_no_length_is_refused_when_it_is_loaded(checkpoint: Path, tmp_path: Path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    torch.save({"weight": torch.zeros(8, 32), "bias": torch.full((8,), 1e30)}, folder / "colbert_linear.pt")
    with pytest.raises(ValueError, match=f"a vector that is not of unit length: the weights of {folder} are damaged"):
        M3Encoder.from_pretrained(folder).warm_up()


@pytest.mark.parametrize("size", [137_689_125, [0]])
def test_a_setting_at_which_the_model_cannot_compute_is_told_with_its_folder(
    checkpoint: Path, tmp_path: Path, size: object
):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "chunk_size_feed_forward": size}))
    with pytest.raises(ValueError, match=f"{folder} cannot be loaded, the embeddings of a text cannot be made"):
        M3Encoder.from_pretrained(folder).warm_up()


@pytest.mark.parametrize("heads", [("dense",), ("sparse",), ("multi_vector",)])
def test_a_text_of_which_a_head_makes_no_numbers_is_refused_among_others(
    checkpoint: Path, tmp_path: Path, heads: tuple[str]
):
    encoder = M3Encoder.from_pretrained(damage_word(shutil.copytree(checkpoint, tmp_path / "model")))
    assert len(encoder.encode_documents(["a fox"], heads=heads)) == 1
    with pytest.raises(ValueError, match=f"the {heads[0]} head gave NaN or infinity"):
        encoder.encode_documents(["a fox", "สุนัข", "a dog"], heads=heads)


def test_a_document_that_the_model_makes_no_numbers_of_is_named_and_the_others_are_stored(
    checkpoint: Path, tmp_path: Path
):
    encoder = M3Encoder.from_pretrained(damage_word(shutil.copytree(checkpoint, tmp_path / "model")))
    index = InMemoryHybridIndex(encoder=encoder)
    report = index.upsert([Document(id="a", text="a fox"), Document(id="b", text="สุนัข"), Document(id="c", text="dog")])
    assert [failure.id for failure in report.failed] == ["b"]
    assert "embeddings must be finite" in report.failed[0].reason
    assert index.count() == 2


def damage_word(folder: Path) -> Path:
    """Makes the vector of a piece of สุนัข NaN, which no probe has."""
    tokenizer = M3Encoder.from_pretrained(folder).tokenizer
    others = {token for text in ("a fox", "a dog", *TEXTS_OF_PROBES) for token in tokenizer.encode(text).ids}
    tensors = load_file(folder / "model.safetensors")
    for token in set(tokenizer.encode("สุนัข").ids) - others:
        tensors["embeddings.word_embeddings.weight"][token] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(checkpoint: Path, tmp_path: Path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"new{number}" for number in range(9)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"has token ids up to \d+, its encoder has vectors of \d+"):
        M3Encoder.from_pretrained(folder).warm_up()
