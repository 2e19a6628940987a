"""MCLS (M3 paper, section 3.4): a CLS token ahead of every run of a document, dense the mean of their states."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.tokenizing import Layout
from tests.tiny import SENTENCES

MCLS = 8
CLS, EOS = 0, 2


class Reference:
    """MCLS by the book: plain transformers, one text at a time."""

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModel.from_pretrained(checkpoint, add_pooling_layer=False).eval()
        heads = {name: torch.load(checkpoint / f"{name}.pt") for name in ("sparse_linear", "colbert_linear")}
        self.sparse, self.multi_vector = heads["sparse_linear"], heads["colbert_linear"]

    def words(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def encode(self, text: str) -> tuple[np.ndarray, dict[int, float], np.ndarray]:
        words = self.words(text)
        ids, is_cls = [], []
        for start in range(0, max(len(words), 1), MCLS):
            run = words[start : start + MCLS]
            ids += [CLS, *run]
            is_cls += [True, *[False] * len(run)]
        ids.append(EOS)
        cls = torch.tensor([*is_cls, False])
        states = self.model(torch.tensor([ids])).last_hidden_state[0]
        dense = torch.nn.functional.normalize(states[cls].mean(0), dim=0)
        weights = torch.relu(states @ self.sparse["weight"].T + self.sparse["bias"])[:, 0]
        sparse: dict[int, float] = {}
        for token, weight in zip(ids, weights.tolist(), strict=True):
            if token > 3 and weight > 0:
                sparse[token] = max(weight, sparse.get(token, 0))
        vectors = states[~cls] @ self.multi_vector["weight"].T + self.multi_vector["bias"]
        return dense.numpy(), sparse, torch.nn.functional.normalize(vectors, dim=1).numpy()


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest.fixture(scope="module")
def mcls_encoder(checkpoint: Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint, mcls=MCLS)


def text_of(tokens: int, reference: Reference) -> str:
    """A text of exactly so many tokens: words of one token each."""
    word = next(w for w in ("fox", "the", "a", "de") if len(reference.words(f"{w} {w}")) == 2)
    text = " ".join([word] * tokens)
    assert len(reference.words(text)) == tokens
    return text


LENGTHS = [0, 1, MCLS - 1, MCLS, MCLS + 1, 2 * MCLS, 2 * MCLS + 1, 100]


@pytest.fixture(scope="module")
def texts(reference: Reference) -> list[str]:
    literal = "a <s> in the text </s> and <s><s> more of it <s> " * 2
    return [text_of(tokens, reference) for tokens in LENGTHS] + [literal, *SENTENCES]


@pytest.mark.parametrize("batch_tokens", [3, None], ids=["one by one", "in mixed batches"])
def test_every_head_equals_the_reference(checkpoint: Path, reference: Reference, texts: list[str], batch_tokens):
    output = M3Encoder.from_pretrained(checkpoint, mcls=MCLS, batch_tokens=batch_tokens).encode_documents(texts)
    for row, text in zip(output, texts, strict=True):
        dense, sparse, vectors = reference.encode(text)
        np.testing.assert_allclose(row.dense[0], dense, atol=1e-5)
        assert row.sparse[0].to_dict() == pytest.approx(sparse, abs=1e-4)
        np.testing.assert_allclose(row.multi_vector[0], vectors, atol=1e-5)


def test_token_counts_say_what_the_model_read(mcls_encoder: M3Encoder, texts: list[str]):
    counts = mcls_encoder.encode_documents(texts[: len(LENGTHS)]).token_counts.tolist()
    assert counts == [max(1, -(-tokens // MCLS)) + tokens + 1 for tokens in LENGTHS]


def test_a_text_of_one_run_is_encoded_as_without_mcls_to_the_bit(
    encoder: M3Encoder, mcls_encoder: M3Encoder, reference: Reference
):
    short = [text_of(tokens, reference) for tokens in range(MCLS + 1)]
    assert mcls_encoder.encode_documents(short).digest() == encoder.encode_documents(short).digest()


def test_a_longer_text_gets_another_dense_vector(encoder: M3Encoder, mcls_encoder: M3Encoder):
    plain, several = (which.encode_documents(SENTENCES[:1]).dense for which in (encoder, mcls_encoder))
    assert np.abs(plain - several).max() > 0.01


def test_queries_are_encoded_as_without_mcls_to_the_bit(encoder: M3Encoder, mcls_encoder: M3Encoder, texts: list[str]):
    assert mcls_encoder.encode_queries(texts).digest() == encoder.encode_queries(texts).digest()


def test_streams_of_documents_have_mcls_too(mcls_encoder: M3Encoder, texts: list[str]):
    (streamed,) = mcls_encoder.iter_documents(texts)
    assert streamed.digest() == mcls_encoder.encode_documents(texts).digest()


@pytest.mark.parametrize("max_length", [3, 9, 10, 11, 12, 18, 19, 20, 21, 50])
def test_no_document_is_longer_than_the_maximum_and_the_cut_ones_are_marked(
    checkpoint: Path, mcls_encoder: M3Encoder, reference: Reference, max_length: int
):
    layout = Layout(max_length, MCLS)
    whole, longer = (text_of(layout.text_tokens + more, reference) for more in (0, 1))
    encoder = M3Encoder.from_pretrained(checkpoint, mcls=MCLS, document_max_length=max_length)
    output = encoder.encode_documents([whole, longer], heads=["dense"])
    assert output.truncated.tolist() == [False, True]
    assert output.token_counts[0] == output.token_counts[1] <= max_length
    assert mcls_encoder.encode_documents([longer], heads=["dense"]).token_counts[0] > max_length


def test_a_cut_document_is_encoded_like_the_part_that_was_read(
    checkpoint: Path, mcls_encoder: M3Encoder, reference: Reference
):
    encoder = M3Encoder.from_pretrained(checkpoint, mcls=MCLS, document_max_length=24)
    read = text_of(Layout(24, MCLS).text_tokens, reference)
    cut = encoder.encode_documents([text_of(99, reference)])
    np.testing.assert_array_equal(cut.dense, mcls_encoder.encode_documents([read]).dense)


def test_fingerprint_changes_with_mcls_and_is_the_checkpoints_without(checkpoint: Path):
    def fingerprint(mcls: int | None) -> str:
        return M3Encoder.from_pretrained(checkpoint, mcls=mcls).fingerprint

    assert len({fingerprint(None), fingerprint(8), fingerprint(256)}) == 3
    assert fingerprint(None) == Checkpoint(checkpoint).fingerprint()


def test_a_model_that_pools_by_the_mean_is_refused_at_once(checkpoint: Path, tmp_path: Path):
    folder = shutil.copytree(checkpoint, tmp_path / "mean")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    with pytest.raises(ValueError, match=r"pools by cls, .* pools by mean; leave out mcls=256"):
        M3Encoder.from_pretrained(folder, mcls=256)


@pytest.mark.parametrize("mcls", [0, -1, True, 2.5, "256"])
def test_bad_mcls_is_refused_before_anything_loads(mcls):
    with pytest.raises(ValueError, match="mcls must be an integer >= 1"):
        M3Encoder.from_pretrained("no/such/model", mcls=mcls)
