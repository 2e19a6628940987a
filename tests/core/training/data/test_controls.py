"""FlagEmbedding's controls of a source: what its file's name and its lines say about how to train on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from m3plugins.training import DatasetError, Example, LossOptions, M3Dataset, Representations, m3_loss
from m3plugins.training.data.collator import Draws
from m3plugins.training.data.sampling import Draw, LengthGroupedBatches
from tests.core.training.runs import curve, examples, trainer

ROW: dict[str, Any] = {"query": "q", "pos": ["p"], "neg": ["n0", "n1", "n2", "n3"]}


def drawn(row: dict[str, Any], negatives: int) -> int:
    """How many negatives an epoch draws."""
    return len(Draws(M3Dataset.from_examples([row]), negatives)[Draw(0, 0)].passages) - 1


def test_only_1neg_draws_one_negative() -> None:
    assert (drawn(ROW, 3), drawn({**ROW, "type": "only_1neg"}, 3), drawn({**ROW, "type": "only_1neg"}, 0)) == (3, 1, 0)


def test_a_group_size_counts_the_positive_and_does_not_exceed_the_runs() -> None:
    assert [drawn({**ROW, "train_group_size": size}, 3) for size in (1, 3, 9)] == [0, 2, 3]


def test_the_estimate_of_a_batchs_tokens_counts_the_negatives_that_are_drawn() -> None:
    assert M3Dataset.from_examples([ROW, {**ROW, "type": "only_1neg"}]).columns.sizes[:, 2].tolist() == [4, 1]


@pytest.mark.parametrize("kind", ["symmetric_sts", "symmetric_clustering"])
def test_symmetric_pairs_have_the_prompt_on_both_sides(kind: str) -> None:
    example = Example.from_row({**ROW, "neg": ["n0", " "], "prompt": "P: ", "type": kind})
    assert (example.prompted_query, example.positives, example.negatives) == ("P: q", ("P: p",), ("P: n0", " "))


@pytest.mark.parametrize("kind", ["symmetric_class", "only_1neg", "normal", None])
def test_other_types_leave_the_passages_without(kind: object) -> None:
    assert Example.from_row({**ROW, "prompt": "P: ", "type": kind}).positives == ("p",)


def test_symmetric_data_has_batches_of_half_the_size() -> None:
    rows = [{**ROW, "query": f"q{number}", "type": "symmetric_class"} for number in range(8)]
    data = M3Dataset.from_examples(rows, "a") + M3Dataset.from_examples([ROW] * 8, "b")
    lengths = np.ones(16, np.int64)
    batches = LengthGroupedBatches(lengths, data.columns.source_of, batch_size=4, halved=data.columns.half_batches)
    sizes = sorted((data[batch[0].row].source, len(batch)) for batch in batches)
    assert sizes == [("a", 2)] * 4 + [("b", 4)] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "symmetric_classes"}, "type must be one of only_1neg, symmetric_class, .*, got 'symmetric_classes'"),
        ({"type": "only_2neg"}, "got 'only_2neg'"),
        ({"type": 3}, "type must be a string, got 3"),
        ({"type": ["only_1neg"]}, "type must be a string, got .'only_1neg'."),
        ({"batch_size": 8}, "batch_size in a line is not supported, got 8; take it out and set the run's"),
        ({"train_group_size": 0}, "train_group_size must be an integer of at least 1, .*, got 0"),
        ({"train_group_size": True}, "got True"),
    ],
)
def test_what_would_change_nothing_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        M3Dataset.from_examples([{**ROW, **change}])


# --- no in-batch negatives


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_file_or_folder_so_named_has_no_in_batch_negatives(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", [ROW])
    named = write(tmp_path / "b_no_in_batch_neg.jsonl", [ROW])
    folder = write(tmp_path / "c_no_in_batch_neg" / "d.jsonl", [ROW]).parent
    found = [example.in_batch_negatives for example in M3Dataset.from_jsonl(plain, named, folder)]
    assert found == [True, False, False]


def test_a_folder_is_so_named_by_the_link_that_was_given(tmp_path: Path) -> None:
    """And not by what the link points to."""
    real = write(tmp_path / "real" / "d.jsonl", [ROW]).parent
    link = tmp_path / "c_no_in_batch_neg"
    link.symlink_to(real, target_is_directory=True)
    back = tmp_path / "plain"
    back.symlink_to(write(tmp_path / "e_no_in_batch_neg" / "d.jsonl", [ROW]).parent, target_is_directory=True)
    assert [M3Dataset.from_jsonl(folder)[0].in_batch_negatives for folder in (real, link, back)] == [True, False, True]


def test_the_working_folder_has_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path / "c_no_in_batch_neg" / "d.jsonl", [ROW]).parent)
    assert not M3Dataset.from_jsonl(".")[0].in_batch_negatives


def test_whether_all_are_compared_with_their_own_is_known_without_the_device(tiny: Path, tmp_path: Path) -> None:
    """A tensor on the meta device has no values."""
    files = [write(tmp_path / f"{name}.jsonl", examples()) for name in ("a", "no_in_batch_neg")]
    data = [M3Dataset.from_jsonl(*paths) for paths in (files[:1], files[1:], files)]
    found = []
    for dataset in data:
        run, draws = trainer(tiny, tmp_path / "run", data=dataset), Draws(dataset, negatives=1)
        batch = run.collator_of(dataset)([draws[Draw(0, 0)], draws[Draw(0, len(dataset) - 1)]])
        found.append(batch.to(torch.device("meta")).all_own_passages_only)
    assert found == [False, True, False]


def test_a_query_that_would_have_its_positive_alone_is_refused(tmp_path: Path) -> None:
    """Also where its negatives are left out: this one is its positive."""
    path = write(tmp_path / "no_in_batch_neg.jsonl", [ROW, {**ROW, "neg": ["p"]}])
    with pytest.raises(DatasetError, match="no_in_batch_neg.jsonl:2: without in-batch negatives an example needs"):
        M3Dataset.from_jsonl(path)


def test_such_queries_are_compared_with_their_own_passages_and_others_with_all() -> None:
    def loss(own: list[bool] | None, **options: Any) -> torch.Tensor:
        chosen = LossOptions(special_ids=(), temperature=0.5, **options)
        return m3_loss(*sides, chosen, own_passages_only=None if own is None else torch.tensor(own)).total

    random = torch.Generator().manual_seed(0)
    queries, passages = (F.normalize(torch.randn(n, 8, generator=random), dim=-1) for n in (2, 6))
    sides = (Representations(dense=queries), Representations(dense=passages))
    scores = (queries @ passages.T) / 0.5
    own, every = F.cross_entropy(scores[:1, :3], torch.tensor([0])), F.cross_entropy(scores[1:], torch.tensor([3]))
    assert loss([True, False]) == pytest.approx(float((own + every) / 2))
    assert loss([True, True]) == pytest.approx(float(loss(None, in_batch_negatives=False)))
    assert loss([False, False]) == pytest.approx(float(loss(None)))


def test_training_on_such_a_file_is_training_without_in_batch_negatives(tiny: Path, tmp_path: Path) -> None:
    plain, named = (write(tmp_path / f"{name}.jsonl", examples()) for name in ("a", "no_in_batch_neg"))
    runs = [
        trainer(tiny, tmp_path, data=M3Dataset.from_jsonl(path), max_steps=2, in_batch_negatives=path is named)
        for path in (plain, named)
    ]
    for run in runs:
        run.train()
    assert curve(runs[0]) == curve(runs[1])
