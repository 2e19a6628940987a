"""The enricher, which keeps the M3 fields of an index filled, whoever writes the documents."""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable

from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins_elasticsearch.attached import AttachedIndex
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.backoff import Backoff
from m3plugins_elasticsearch.enricher.heartbeat import LeaseLostError
from m3plugins_elasticsearch.enricher.metrics import EnrichReport, Metrics, VerifyReport
from m3plugins_elasticsearch.enricher.run import Options, Run, check_whole
from m3plugins_elasticsearch.enricher.shards import Positions, positions
from m3plugins_elasticsearch.enricher.verifying import verify
from m3plugins_elasticsearch.enricher.watched_index import check_name, open_watched_index

OnProgress = Callable[[Metrics], None]

_WAITING_S = 0.5


class Enricher:
    """Follows the changes of an index and writes M3's vectors back into its documents.

    Any number of enrichers, in any number of processes, share the work on one index: each claims the next changes
    of a shard, and takes over what a dead one left. None overwrites a newer edit: write-backs are conditional. What
    was done is kept in the hidden index `m3-enricher.NAME`, what cannot be done in `m3-dead-letters.NAME`.

    A document without the text is enriched as an empty one: it can be found by its title and its metadata.

    Args:
        index: The index to enrich. It stays open.
        worker: A name for people; by default made of the host and the process.
        follow: A name or an alias to follow to whichever index it leads to; by default the index's own name. An
            index made anew under it is attached to in the same way, and enriched from its beginning.
        lease_s: Seconds without a sign of life after which others take over what a worker holds.
        poll_s: Seconds between looks for changes. Where there are some, the index is refreshed.
        batch: Documents that a worker takes at most at a time; it begins with few, and takes what it can do in
            some seconds.

    Raises:
        ValueError: If the encoder cuts documents at another length than the index's, or an option is not possible.

    Example:
        >>> index = AttachedIndex.attach(
        ...     "articles", encoder=encoder, uri="http://localhost:9200", fields={"text": "body"}
        ... )  # doctest: +SKIP
        >>> Enricher(index).run_once().enriched  # doctest: +SKIP
        20000
    """

    def __init__(
        self,
        index: AttachedIndex,
        *,
        worker: str | None = None,
        follow: str | None = None,
        lease_s: float = 30.0,
        poll_s: float = 1.0,
        batch: int = 512,
    ) -> None:
        for name, value in (("lease_s", lease_s), ("poll_s", poll_s), ("batch", batch)):
            if not value > 0:
                msg = f"{name} must be above 0, got {value}"
                raise ValueError(msg)
        index.identity.check_length(index.encoder)
        check_name(index.name)
        self.worker = worker or f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self._index = index
        self._options = Options(
            worker=self.worker, follow=follow or index.name, lease_s=lease_s, poll_s=poll_s, batch=batch
        )

    @property
    def index(self) -> str:
        """The name, not an alias, of the index to enrich."""
        return self._index.name

    def run_once(
        self, on_progress: OnProgress | None = None, *, anew: bool = False, stop: threading.Event | None = None
    ) -> EnrichReport:
        """Settles every change that is there at the start, together with other workers, and waits for theirs.

        While Elasticsearch is away it waits, for the index's `patience`.

        Args:
            on_progress: Called after each batch and each look.
            anew: Whether to look at every document once more, at dead letters too. What is enriched is not encoded.
            stop: Ends the work after the current batch.

        Raises:
            IndexNotFoundError: If there is no such index any more.
            ElasticsearchIndexError: If Elasticsearch refuses or stays away.
        """
        stop = stop or threading.Event()
        run = Run(self._index, self._options, stop, on_progress or _nothing)
        backoff = Backoff(self._index.store.connection.patience)
        goal: Positions | None = None
        completed = False
        letters: int | None = None
        try:
            while letters is None:
                try:
                    at, watched = run.look()
                    if completed or stop.is_set():
                        watched.feed.refresh()
                        watched.dead_letters.prune(stop)
                        letters = watched.dead_letters.count()
                        continue
                    check_whole(at, watched)
                    if goal is None or goal.histories != at.histories:
                        if anew:
                            run.restart(at, watched)
                        goal = at
                    done = run.round(at, watched, goal.checkpoints)
                    backoff.reset()
                except LeaseLostError:
                    continue
                except ElasticsearchIndexError as err:
                    run.failed(err)
                    if stop.is_set():
                        raise
                    backoff.wait(err, stop)
                    continue
                completed = not run.behind
                if not completed and not done.took:
                    stop.wait(min(_WAITING_S, self._options.poll_s))
        finally:
            run.leave()
        seconds = run.metrics().seconds
        return EnrichReport(**run.counts(), dead_letters=letters, completed=completed, seconds=seconds)

    def watch(self, stop: threading.Event, on_progress: OnProgress | None = None) -> Metrics:
        """Follows the changes until it is told to stop, whatever happens to Elasticsearch and to the index.

        Args:
            stop: Ends the work after the current batch.
            on_progress: Called after each batch and each look.

        Returns:
            The metrics at the end.

        Raises:
            ValueError: If the name that is followed is of several indexes by now, or of one that cannot be enriched.
        """
        run = Run(self._index, self._options, stop, on_progress or _nothing)
        backoff = Backoff(float("inf"))
        try:
            while not stop.is_set():
                started = time.monotonic()
                try:
                    at, watched = run.look()
                    done = run.round(at, watched, at.checkpoints)
                    run.prune(watched)
                    backoff.reset()
                except LeaseLostError:
                    continue
                except (ElasticsearchIndexError, IndexNotFoundError) as err:
                    run.failed(err)
                    backoff.wait(err, stop)
                    continue
                if not done.more:
                    stop.wait(max(0.0, started + self._options.poll_s - time.monotonic()))
            return run.metrics()
        finally:
            run.leave()

    def verify(self, on_progress: Callable[[int], None] | None = None) -> VerifyReport:
        """Compares every document with what is stored of it; encodes nothing and changes no document.

        Args:
            on_progress: Called with a number of documents, after each page.

        Raises:
            IndexNotFoundError: If there is no such index any more.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        at = positions(self._index.store.connection, self._options.follow)
        watched = open_watched_index(self._index, at, self._options.follow, self.worker)
        check_whole(at, watched)
        return verify(watched, at.shards, on_progress or (lambda count: None))


def _nothing(metrics: Metrics) -> None:
    """Ignores the metrics."""
