"""Rerankers: one protocol, exact scores, batches that do not matter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import XLMRobertaForSequenceClassification

from m3plugins import HybridWeights, M3Encoder
from m3plugins.fusion import weighted_sum
from m3plugins.reranking import CrossEncoderReranker, M3Reranker, Reranker
from m3plugins.scoring import head_scores
from tests.tiny import SENTENCES, save_cross_encoder


@pytest.fixture(scope="module")
def cross_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


def test_m3_reranker_is_the_weighted_sum_of_exact_scores(encoder: M3Encoder):
    weights = HybridWeights(dense=0.2, sparse=0.8, multi_vector=0)
    exact = head_scores(encoder.encode_queries(["fox"]), encoder.encode_documents(SENTENCES))
    scores = M3Reranker(encoder, weights=weights).score("fox", SENTENCES)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [weighted_sum(score, weights) for score in exact], atol=1e-5)


def test_pairs_are_scored_in_order_with_repeats(encoder: M3Encoder):
    reranker = M3Reranker(encoder)
    pairs = [("fox", SENTENCES[0]), ("dog", SENTENCES[1]), ("fox", SENTENCES[1]), ("fox", SENTENCES[0])]
    scores = reranker.score_pairs(pairs)
    assert scores[0] == scores[3]
    for (query, text), score in zip(pairs, scores, strict=True):
        assert weighted_sum(score, reranker.weights) == pytest.approx(reranker.score(query, [text])[0], abs=1e-5)
    assert reranker.score_pairs([]) == []


def test_cross_encoder_scores_are_the_models_logits_whatever_the_batches(cross_encoder_folder: Path):
    from transformers import AutoTokenizer

    scores = CrossEncoderReranker(cross_encoder_folder, batch_tokens=128).score("quick fox", SENTENCES)
    model = XLMRobertaForSequenceClassification.from_pretrained(cross_encoder_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder_folder)
    for text, score in zip(SENTENCES, scores, strict=True):
        with torch.inference_mode():
            pair = tokenizer("quick fox", text, return_tensors="pt", truncation=True, max_length=128)
            assert score == pytest.approx(model(**pair).logits.item(), abs=1e-5)


def test_normalised_scores_are_probabilities_in_the_same_order(cross_encoder_folder: Path):
    raw = CrossEncoderReranker(cross_encoder_folder).score("fox", SENTENCES)
    normal = CrossEncoderReranker(cross_encoder_folder, normalize=True).score("fox", SENTENCES)
    np.testing.assert_allclose(normal, 1 / (1 + np.exp(-raw)), atol=1e-6)


def test_pairs_that_are_cut_are_counted(cross_encoder_folder: Path, caplog: pytest.LogCaptureFixture):
    scores = CrossEncoderReranker(cross_encoder_folder).score("fox", ["fox " * 999, "fox"])
    assert len(scores) == 2
    assert "1 of 2 pairs were longer than 128 tokens" in caplog.text


def test_a_huge_text_scores_as_its_beginning(cross_encoder_folder: Path, caplog: pytest.LogCaptureFixture):
    scores = CrossEncoderReranker(cross_encoder_folder).score("fox", ["fox den " * 20_000, "fox den " * 999])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert "2 of 2 pairs were longer" in caplog.text


def test_a_classifier_of_several_labels_is_no_reranker(tmp_path: Path):
    with pytest.raises(ValueError, match="scores with one label, .* has 3"):
        CrossEncoderReranker(save_cross_encoder(tmp_path, labels=3)).warm_up()


def test_an_encoder_without_a_scoring_head_is_no_reranker(checkpoint: Path):
    with pytest.raises(ValueError, match="must bring all its weights, .* lacks classifier"):
        CrossEncoderReranker(checkpoint).warm_up()


def test_without_a_network_an_unknown_cross_encoder_fails_as_an_unknown_encoder_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    errors = []
    for model in (CrossEncoderReranker("no/such-model"), M3Encoder.from_pretrained("no/such-model")):
        with pytest.raises(FileNotFoundError, match="check the name and the network, or give a folder") as caught:
            model.warm_up()
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bge-reranker-v2", "did you mean 'BAAI/bge-reranker-v2-m3'"),
        ("./none", "no model './none'"),
        ("m3-mini", "no model 'm3-mini': it is no"),
    ],
)
def test_what_can_be_no_cross_encoder_is_refused_at_once(model: str, message: str):
    with pytest.raises(FileNotFoundError, match=message):
        CrossEncoderReranker(model)


def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="not a model's folder: it has no config.json"):
        CrossEncoderReranker(tmp_path)


@pytest.mark.parametrize(
    "options", [{"max_length": 7}, {"max_length": "9"}, {"batch_tokens": None}, {"dtype": "int4"}, {"device": 0}]
)
def test_bad_options_are_refused_before_anything_loads(options: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(options))):
        CrossEncoderReranker("no/such-model", **options)


def test_both_are_rerankers_and_take_no_texts(encoder: M3Encoder, cross_encoder_folder: Path):
    for reranker in (M3Reranker(encoder), CrossEncoderReranker(cross_encoder_folder)):
        assert isinstance(reranker, Reranker)
        assert reranker.score("fox", []).shape == (0,)
