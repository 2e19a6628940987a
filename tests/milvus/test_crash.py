"""What was acknowledged survives `kill -9`; the long form is `benchmarks/soak.py`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.milvus.crash.operations import OPERATIONS
from tests.milvus.crash.trials import Course, Laboratory, Trial

WRITES = ("Insert", "Upsert", "Delete")


@pytest.fixture(scope="module")
def laboratory(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("crash"), checkpoint)


@pytest.fixture(scope="module")
def course(laboratory: Laboratory) -> Course:
    """Of new documents."""
    return laboratory.course("index")


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if "beside" not in name])
def test_killed_between_two_writes_it_has_what_was_acknowledged_and_can_be_repeated(
    laboratory: Laboratory, operation: str
) -> None:
    course = laboratory.course(operation)
    gaps = [point for point in course.points if point.startswith(tuple(f"after {write}" for write in WRITES))]
    assert gaps
    for seed, point in enumerate(random.Random(operation).sample(gaps, min(2, len(gaps)))):
        outcome = laboratory.run(Trial(operation, seed, point), course)
        assert (outcome.killed, outcome.fine) == (1, True), outcome


@pytest.mark.soak
def test_killed_again_and_again_at_random_it_has_what_was_acknowledged(laboratory: Laboratory) -> None:
    course = laboratory.course("life")
    for seed in range(2):
        outcome = laboratory.run(Trial("life", seed, kills=3), course)
        assert outcome.fine, outcome


def test_killed_while_two_threads_write_the_same_documents_it_has_what_was_acknowledged(laboratory: Laboratory) -> None:
    operation = "passages beside update_metadata"
    outcome = laboratory.run(Trial(operation, 1), laboratory.course(operation))
    assert outcome.fine, outcome


def test_blocks_without_a_row_are_swept(laboratory: Laboratory, course: Course) -> None:
    """New documents whose blocks were written and whose rows were not, then the same ids with other texts."""
    outcome = laboratory.run(Trial("delete by ids", 0, "after Delete 1"), course)
    assert outcome.fine and outcome.swept > 0, outcome


@pytest.mark.parametrize("point", ["before save 1", "before save 2"])
def test_an_index_whose_search_index_was_cut_short_opens(laboratory: Laboratory, course: Course, point: str) -> None:
    """Lite writes `indexes/*.idx` in place and loads what is there, also where a kill left it empty."""
    outcome = laboratory.run(Trial("index", 0, point), course)
    assert outcome.killed and outcome.fine, outcome


@pytest.mark.parametrize(
    ("operation", "point"),
    [("index", "after replace 1"), ("index", "before remove 1"), ("trickle", "after replace 5")],
    ids=["documents", "before the log goes", "then compacted"],
)
def test_rows_in_a_file_and_still_in_the_log_are_found_once(
    laboratory: Laboratory, course: Course, operation: str, point: str
) -> None:
    """A flush commits its file and then deletes its log; killed in between, Lite reads both."""
    outcome = laboratory.run(Trial(operation, 0, point), course)
    assert outcome.killed and outcome.fine, outcome
