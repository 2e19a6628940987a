"""A trial: an operation is killed, the index is opened and checked, the operation is performed again, and checked."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.milvus.crash.checking import Findings, check, named_blocks, stored_blocks
from tests.milvus.crash.corpus import CUT, Allowed, Corpus, load_encoder
from tests.milvus.crash.operations import OPERATIONS, Sent, is_cut, notes
from tests.milvus.crash.worker import NAME, Job, acknowledged, perform

# A worker is forked, with all its imports, from a process that has no threads.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["m3plugins.encoding.backends.torch", "m3plugins_milvus", "milvus_lite.adapter.grpc.server"]
)


@dataclass(frozen=True)
class Course:
    """An operation that nobody interrupted.

    Attributes:
        seconds: How long it took.
        points: The points it came by.
    """

    seconds: float
    points: list[str]


@dataclass(frozen=True)
class Trial:
    """How to repeat it.

    Attributes:
        operation: A name in OPERATIONS.
        seed: Decides what is not given here: the moments, and whether the texts are encoded.
        point: To die at; None: at a random moment.
        kills: How often, before the index is looked at.
    """

    operation: str
    seed: int
    point: str | None = None
    kills: int = 1


@dataclass
class Outcome:
    """What a trial found.

    Attributes:
        killed: How often the operation was interrupted (it may have been done already).
        swept: Orphaned blocks that the interruption left.
        completed: Whether performing it again did all of it, and `sweep` left exactly what documents name.
        findings: What was wrong before, or after it was performed again.
        error: What kept the index from being opened, or the operation from being repeated.
    """

    trial: Trial
    killed: int = 0
    swept: int = 0
    completed: bool = False
    findings: Findings = field(default_factory=Findings)
    error: str = ""

    @property
    def fine(self) -> bool:
        return self.completed and not self.findings


class Laboratory:
    """An index that is copied for each trial.

    Args:
        folder: For all files.
        checkpoint: A folder with an M3 model.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.encoder = load_encoder(checkpoint)
        self.corpora = {cut: Corpus.encode(self.encoder, cut=cut) for cut in (False, True)}
        for cut, corpus in self.corpora.items():
            where = {"uri": self._base(cut), "codec": "int8"}  # binary would hide which text a vector is of
            with MilvusHybridIndex.create(NAME, encoder=self.encoder, passages=CUT if cut else None, **where) as index:
                index.upsert(corpus.stored, embeddings=corpus.embeddings(corpus.stored))

    @property
    def corpus(self) -> Corpus:
        """Of the index without passages."""
        return self.corpora[False]

    def course(self, operation: str) -> Course:
        """Lets an operation run to its end."""
        process, parent = self._start(Trial(operation, 0), self.fresh(is_cut(operation)), encode=False)
        started = time.perf_counter()
        points = parent.recv()
        seconds = time.perf_counter() - started
        process.join()
        return Course(seconds, points)

    def run(self, trial: Trial, course: Course) -> Outcome:
        """Interrupts an operation and sees what is left."""
        corpus = self.corpora[is_cut(trial.operation)]
        choose, outcome, uri = random.Random(trial.seed), Outcome(trial), self.fresh(is_cut(trial.operation))
        encode = choose.random() < 0.2
        allowed: Allowed = {each.id: [each] for each in corpus.stored}
        steps = OPERATIONS[trial.operation](corpus, encode)
        sent, beside = [pair for step in steps for pair in step.sent], notes(steps)
        known = noted(after(allowed, sent, Counter()), beside)
        for _ in range(trial.kills):
            process, _ = self._start(trial, uri, encode)
            if trial.point is None:
                process.join(choose.uniform(0, course.seconds))
                process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL), "the operation failed by itself"
            outcome.killed += process.exitcode != 0
            allowed = after(allowed, sent, Counter(acknowledged(self._witness)))
        try:
            with MilvusHybridIndex.open(NAME, encoder=self.encoder, uri=uri) as index:
                outcome.findings += check(index, corpus, noted(allowed, beside), known)
                final = noted(after(allowed, sent, Counter(i for i, _ in sent)), beside)
                self._again(trial, index, encode, outcome, final, known)
        except (MilvusIndexError, ValueError) as err:
            outcome.error = f"{type(err).__name__}: {err}"
        return outcome

    def _again(
        self, trial: Trial, index: MilvusHybridIndex, encode: bool, outcome: Outcome, final: Allowed, known: Allowed
    ) -> None:
        """Performs the operation without interruption, and sweeps."""
        acked: list[str] = []
        corpus = self.corpora[is_cut(trial.operation)]
        steps = OPERATIONS[trial.operation](corpus, encode)
        failed = [each for step in steps for each in step.call(index, acked.extend)]
        outcome.findings += check(index, corpus, final, known)
        client = MilvusClient(str(self.folder / "trial.db"))
        before = stored_blocks(client, NAME)
        outcome.swept = index.sweep()
        exact = stored_blocks(client, NAME) == named_blocks(client, NAME) == before - outcome.swept
        exact = exact and index.sweep() == 0
        client.close()
        everything = Counter(i for step in steps for i, _ in step.sent)
        outcome.completed = not failed and Counter(acked) == everything and exact
        outcome.findings += check(index, corpus, final, known)

    @property
    def _witness(self) -> Path:
        return self.folder / "witness"

    def fresh(self, cut: bool = False) -> Path:
        """A copy of the index, of the one with passages if `cut`; the last copy is gone."""
        uri = self.folder / "trial.db"
        shutil.rmtree(uri, ignore_errors=True)
        shutil.copytree(self._base(cut), uri)
        return uri

    def _base(self, cut: bool) -> Path:
        return self.folder / ("passages.db" if cut else "base.db")

    def _start(self, trial: Trial, uri: Path, encode: bool):
        """The worker, once it has begun."""
        self._witness.unlink(missing_ok=True)
        corpus = self.corpora[is_cut(trial.operation)]
        job = Job(uri, self._witness, self.checkpoint, corpus, trial.operation, encode, trial.point)
        parent, child = processes.Pipe(duplex=False)
        process = processes.Process(target=perform, args=(job, child))
        process.start()
        child.close()
        parent.recv()
        return process, parent


def after(allowed: Allowed, sent: Sent, acked: Counter[str]) -> Allowed:
    """What may be stored when these were sent, of which so many were acknowledged."""
    versions = {i: list(some) for i, some in allowed.items()}
    seen: Counter[str] = Counter()
    for i, document in sent:
        seen[i] += 1
        before = versions.setdefault(i, [None])
        versions[i] = [document] if seen[i] <= acked[i] else [*before, document]
    return versions


def noted(allowed: Allowed, beside: Mapping[str, Mapping[str, Any]]) -> Allowed:
    """The same where other threads may have given these metadata to any version."""
    return {
        i: [*some, *(replace(each, metadata=beside[i]) for each in some if each and i in beside)]
        for i, some in allowed.items()
    }
