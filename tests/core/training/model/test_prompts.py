"""The prompts that a model is trained with are those that it is evaluated with and that its checkpoint states."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.sentence_transformers import Prompts, save_prompts
from m3plugins.evaluation import evaluate
from m3plugins.indexing.in_memory import InMemoryHybridIndex
from m3plugins.training import Drift, M3Dataset, M3Model
from m3plugins.training.data.collator import Draws
from m3plugins.training.data.sampling import Draw
from m3plugins.training.model.live_encoder import live_encoder
from tests.core.training.runs import copy_of, curve, examples, trainer
from tests.core.training.test_development import collection as collection
from tests.tiny import SENTENCES

GIVEN = {"query_prompt": "find: ", "document_prompt": "text: "}
PROMPTS = Prompts(query="find: ", document="text: ")


def data(*prompts: str) -> M3Dataset:
    """Examples whose lines have these prompts, in turns."""
    rows = examples()
    return M3Dataset.from_examples(
        [{**row, "prompt": prompts[number % len(prompts)]} for number, row in enumerate(rows)]
    )


def test_the_model_reads_what_the_encoder_reads(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, **GIVEN)
    dataset = run.train_dataset
    batch = run.collator_of(dataset)([Draws(dataset, negatives=0)[Draw(0, row)] for row in range(3)])
    encoder = M3Encoder.from_pretrained(tiny, **GIVEN)
    rows = examples()[:3]
    for texts, layout, found in (
        ([row["query"] for row in rows], encoder.query_layout, batch.queries),
        ([row["pos"][0] for row in rows], encoder.document_layout, batch.passages),
    ):
        expected = [encoder.tokenizer.encode(layout.prompt + text).ids for text in texts]
        assert [ids[:5] for ids in found.input_ids.tolist()] == [ids[:5] for ids in expected]


def test_a_lines_own_prompt_goes_in_place_of_the_runs(tiny: Path, tmp_path: Path) -> None:
    own, given = data("own: "), M3Dataset.from_examples(examples())
    runs = [trainer(tiny, tmp_path, data=own), trainer(tiny, tmp_path, data=given, query_prompt="own: ")]
    batches = [
        run.collator_of(run.train_dataset)([Draws(run.train_dataset, negatives=0)[Draw(0, row)] for row in range(4)])
        for run in runs
    ]
    assert batches[0].queries.input_ids.equal(batches[1].queries.input_ids)
    assert batches[0].query_keys.equal(batches[1].query_keys)


@pytest.mark.parametrize(
    ("settings", "lines", "expected"),
    [
        (GIVEN, ("",), PROMPTS),
        ({}, ("",), Prompts()),
        ({}, ("own: ",), Prompts(query="own: ")),
        ({"query_prompt": "own: "}, ("own: ",), Prompts(query="own: ")),
        ({"query_prompt": "find: "}, ("own: ", ""), Prompts(query="find: ")),
    ],
    ids=str,
)
def test_the_saved_checkpoint_states_them(
    tiny: Path, tmp_path: Path, settings: dict[str, Any], lines: tuple[str, ...], expected: Prompts
) -> None:
    run = trainer(tiny, tmp_path / "run", data=data(*lines), **settings)
    run.save_model(str(tmp_path / "saved"))
    assert M3Encoder.from_pretrained(tmp_path / "saved").prompts == expected


def test_prompts_of_the_model_are_trained_with_and_kept_unless_others_are_given(tiny: Path, tmp_path: Path) -> None:
    base = copy_of(tiny, tmp_path / "base")
    save_prompts(base, PROMPTS)
    for name, change, expected in (
        ("kept", {}, PROMPTS),
        ("cleared", {"query_prompt": "", "document_prompt": ""}, Prompts()),
    ):
        run = trainer(base, tmp_path / "run", **change)
        assert run.model.prompts == expected
        run.save_model(str(tmp_path / name))
        assert Checkpoint(tmp_path / name).prompts == expected


def test_lines_with_several_prompts_are_warned_of(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run = trainer(tiny, tmp_path, data=data("a: ", "b: "))
    assert "has 2 different prompts, such as 'a: ', 'b: '; the checkpoint will state ''" in caplog.text
    assert run.model.prompts == Prompts()


def test_lines_with_the_runs_prompt_are_no_others(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run = trainer(tiny, tmp_path, data=data("", "q: "), query_prompt="q: ")
    assert "different prompts" not in caplog.text
    assert run.model.prompts == Prompts(query="q: ")


def test_a_budget_of_tokens_counts_the_prompts(tiny: Path, tmp_path: Path) -> None:
    settings = {"batch_tokens": 200, "per_device_train_batch_size": 16, "negatives": 0}
    settings |= {"query_max_length": 64, "passage_max_length": 64}
    plain, prompted = (
        trainer(tiny, tmp_path, **settings, **prompts).get_train_dataloader()
        for prompts in ({}, {"query_prompt": "find: " * 4, "document_prompt": "text: " * 4})
    )
    assert len(plain) < len(prompted)


def test_a_prompt_that_no_query_would_have_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="query_prompt='find: ' would never be used: every query has its own prompt, such as 'own: '"
    ):
        trainer(tiny, tmp_path, data=data("own: "), query_prompt="find: ")


def test_development_sets_are_evaluated_with_them(tiny: Path, tmp_path: Path, collection: Any) -> None:
    run = trainer(tiny, tmp_path / "run", eval_dataset=collection, **GIVEN)
    metrics = run.evaluate()
    run.save_model(str(tmp_path / "saved"))
    saved = M3Encoder.from_pretrained(tmp_path / "saved")
    index = InMemoryHybridIndex(encoder=saved)
    index.upsert(collection.documents())
    expected = evaluate(index, collection, measures=("nDCG@10",)).means()["All"]["nDCG@10"]
    assert metrics["eval_all_ndcg@10"] == pytest.approx(expected)
    live = live_encoder(run.model, run.encoder)
    assert live.prompts == PROMPTS
    assert live.encode_queries(SENTENCES).dense == pytest.approx(saved.encode_queries(SENTENCES).dense, abs=1e-5)


def test_probes_measure_with_them(tiny: Path, tmp_path: Path) -> None:
    """The model has not moved from itself with the same prompt."""
    run = trainer(tiny, tmp_path, callbacks=[Drift(SENTENCES)], max_steps=1, learning_rate=0.0, **GIVEN)
    run.train()
    logged = curve(run)[0]
    assert [logged[f"drift_{head}"] for head in ("dense", "sparse", "multi_vector")] == pytest.approx([0] * 3, abs=1e-5)


def test_a_resumed_run_keeps_them(tiny: Path, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, max_steps=1, save_strategy="steps", save_steps=1, **GIVEN).train()
    assert Checkpoint(tmp_path / "checkpoint-1").prompts == PROMPTS
    assert M3Model(Checkpoint(tmp_path / "checkpoint-1")).prompts == PROMPTS
