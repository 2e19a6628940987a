"""From examples to batches: what is drawn, how it is encoded, what is known of it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.tokenizing import Layout, TextTokenizer
from m3plugins.training.data.batch import Batch
from m3plugins.training.data.collator import Drawn, Draws, M3Collator, text_key
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.data.examples import Example
from m3plugins.training.data.sampling import Draw, LengthGroupedBatches
from tests.tiny import SENTENCES

PAD = 1


def draws(example: Example, negatives: int, seed: int = 0) -> Draws:
    return Draws(M3Dataset.from_examples([example]), negatives, seed)


def collate(checkpoint: Path, examples: list[Drawn], **options: Any) -> Batch:
    return M3Collator(Checkpoint(checkpoint), **{"query_max_length": 32, "passage_max_length": 64, **options})(examples)


def drawn(query: str, *passages: str, positives: tuple[str, ...] = (), scores: Any = None) -> Drawn:
    return Drawn(query, passages, positives or passages[:1], scores)


SCORED = Example("q", ("p0", "p1"), tuple(f"n{number}" for number in range(9)), (10.0, 11.0), tuple(range(9)))


def test_a_group_is_a_positive_and_different_negatives() -> None:
    data = draws(SCORED, negatives=4)
    for epoch in range(20):
        positive, *negatives = data[Draw(epoch, 0)].passages
        assert positive in SCORED.positives
        assert len(set(negatives)) == 4
        assert set(negatives) <= set(SCORED.negatives)


def test_epochs_see_every_positive_and_negative() -> None:
    seen = {text for epoch in range(50) for text in draws(SCORED, negatives=2)[Draw(epoch, 0)].passages}
    assert seen == {*SCORED.positives, *SCORED.negatives}


def test_a_draw_depends_on_seed_epoch_and_row_alone() -> None:
    data = Draws(M3Dataset.from_examples([SCORED] * 3), negatives=4, seed=5)
    assert data[Draw(2, 1)] == Draws(M3Dataset.from_examples([SCORED] * 3), negatives=4, seed=5)[Draw(2, 1)]
    assert len({data[Draw(epoch, row)] for epoch in range(3) for row in range(3)}) == 9


def test_few_negatives_all_come_with_their_scores() -> None:
    example = Example("q", ("p",), ("a", "b"), (9.0,), (1.0, 2.0))
    group = draws(example, negatives=5)[Draw(0, 0)]
    assert sorted(zip(group.passages, group.scores, strict=True)) == [("a", 1.0), ("b", 2.0), ("p", 9.0)]


def test_without_negatives_the_positive_comes_alone() -> None:
    group = draws(Example("q", ("p",), positive_scores=(3.0,)), negatives=2)[Draw(0, 0)]
    assert (group.passages, group.scores) == (("p",), (3.0,))


def test_a_group_may_be_the_positive_alone() -> None:
    assert draws(Example("q", ("p",), ("n",)), negatives=0)[Draw(0, 0)].passages == ("p",)


def test_scores_follow_their_texts() -> None:
    score_of = dict(zip(SCORED.positives + SCORED.negatives, (10.0, 11.0, *map(float, range(9))), strict=True))
    for epoch in range(10):
        group = draws(SCORED, negatives=6)[Draw(epoch, 0)]
        assert group.scores == tuple(score_of[text] for text in group.passages)


def test_the_model_reads_the_prompt_and_the_query(checkpoint: Path) -> None:
    found = draws(Example("q", ("p",), prompt="Query: "), negatives=0)[Draw(0, 0)]
    prompted, whole = collate(checkpoint, [found]), collate(checkpoint, [drawn("Query: q", "p")])
    assert prompted.queries.input_ids.tolist() == whole.queries.input_ids.tolist()


def test_texts_are_encoded_as_the_encoder_does(checkpoint: Path, encoder: M3Encoder) -> None:
    query, *passages = SENTENCES
    batch = collate(checkpoint, [drawn(query, *passages)], query_max_length=9, passage_max_length=12)
    for texts, length, side in (([query], 9, batch.queries), (passages, 12, batch.passages)):
        expected = TextTokenizer(encoder.tokenizer, Layout(length)).tokenize(texts)
        for ids, mask, text in zip(side.input_ids, side.mask, expected, strict=True):
            assert ids[mask].tolist() == text.ids.tolist()
    assert batch.truncated == sum(encoder_cuts(encoder, [query], 9) + encoder_cuts(encoder, passages, 12)) > 0


def encoder_cuts(encoder: M3Encoder, texts: list[str], length: int) -> list[bool]:
    return [len(encoder.tokenizer.encode(text).ids) > length for text in texts]


def test_padding_is_on_the_right_and_masked(checkpoint: Path) -> None:
    batch = collate(checkpoint, [drawn("q", "fox", " ".join(["fox"] * 9))])
    passages = batch.passages
    assert passages.input_ids.dtype == torch.int64
    assert passages.mask.dtype == torch.bool
    assert passages.lengths.max() == passages.mask.shape[1]
    assert torch.equal(passages.mask, torch.arange(passages.mask.shape[1]) < passages.lengths[:, None])
    assert (passages.input_ids[~passages.mask] == PAD).all()


def keys(*texts: str) -> list[int]:
    return [text_key(text) for text in texts]


def test_a_text_comes_once_and_groups_say_whose_it_is(checkpoint: Path) -> None:
    batch = collate(checkpoint, [drawn("q", "a", "b", "x"), drawn("r", "c", "a"), drawn("q", "x")])
    assert (len(batch.queries), len(batch.passages)) == (3, 4)
    assert batch.passage_keys.tolist() == keys("a", "b", "x", "c")
    assert batch.groups.tolist() == [[0, 1, 2], [3, 0, -1], [2, -1, -1]]
    assert batch.query_keys.tolist() == keys("q", "r", "q")


def test_all_positives_are_known_and_the_rest_is_filled_up(checkpoint: Path) -> None:
    batch = collate(checkpoint, [drawn("q", "a", "x", positives=("a", "b")), drawn("r", "c", "x")])
    assert batch.positive_keys.dtype == torch.int64
    assert batch.positive_keys.tolist() == [keys("a", "b"), [*keys("c"), 0]]


def test_scores_come_if_asked_for(checkpoint: Path) -> None:
    examples = [drawn("q", "a", "b", scores=(2.0, 1.0)), drawn("r", "c", scores=(4.0,))]
    scores = collate(checkpoint, examples, with_scores=True).teacher_scores
    assert scores is not None
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.0], [4.0, -torch.inf]]))
    assert collate(checkpoint, examples).teacher_scores is None


def test_missing_scores_are_named_by_their_query(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="needs pos_scores and neg_scores of every example, got none for 'q'"):
        collate(checkpoint, [drawn("q", "a")], with_scores=True)


@pytest.fixture
def on_disk(tmp_path: Path) -> M3Dataset:
    path = tmp_path / "a.jsonl"
    rows = [{"query": text, "pos": [f"{text}!"], "neg": SENTENCES[:3]} for text in SENTENCES]
    path.write_text("\n".join(map(json.dumps, rows)))
    return M3Dataset.from_jsonl(path)


def test_forked_workers_make_the_same_batches(checkpoint: Path, on_disk: M3Dataset) -> None:
    batches = LengthGroupedBatches(on_disk.columns.sizes.sum(1), on_disk.columns.source_of, batch_size=4)
    collator = M3Collator(Checkpoint(checkpoint), query_max_length=16, passage_max_length=16)

    def load(**workers: Any) -> list[Batch]:
        return list(DataLoader(Draws(on_disk, 2), batch_sampler=batches, collate_fn=collator, **workers))

    for ours, theirs in zip(load(num_workers=2, multiprocessing_context="fork"), load(), strict=True):
        assert_equal(ours, theirs)


def test_what_spawned_workers_unpickle_makes_the_same_batches(checkpoint: Path, on_disk: M3Dataset) -> None:
    collator = M3Collator(Checkpoint(checkpoint), query_max_length=16, passage_max_length=16)
    draws = Draws(on_disk, 2)
    drawing = [Draw(1, row) for row in range(len(on_disk))]
    there, data = pickle.loads(pickle.dumps((collator, draws)))
    assert_equal(there([data[draw] for draw in drawing]), collator([draws[draw] for draw in drawing]))


def assert_equal(ours: Batch, theirs: Batch) -> None:
    torch.testing.assert_close(ours.passages.input_ids, theirs.passages.input_ids)
    torch.testing.assert_close(ours.passage_keys, theirs.passage_keys)
