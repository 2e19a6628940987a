"""The work on one claim, from the feed to the write-back: while a batch is written, the next one is encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from m3plugins.indexing.report import UpsertReport
from m3plugins.indexing.streaming import Pending, Stream
from m3plugins_elasticsearch.enricher.comparing import compare
from m3plugins_elasticsearch.enricher.dead_letters import StoredDeadLetter
from m3plugins_elasticsearch.enricher.ledger import Claim
from m3plugins_elasticsearch.enricher.ranges import Range
from m3plugins_elasticsearch.enricher.write_back import WriteBack


def enrich(
    writer: WriteBack, claim: Claim, without: Sequence[Range], progressed: Callable[[], None], *, fault: str = ""
) -> None:
    """Brings the documents of a claim up to date; when it returns, each is, or has a dead letter, or a newer change.

    Args:
        writer: Writes back the documents of the claim.
        claim: The changes.
        without: Changes that are our own.
        progressed: Called after each batch.
        fault: The reason for dead letters of all the documents, unread, if there is one.

    Raises:
        LeaseLostError: If the claim is another's by now.
        StoppedError: If the writer was told to stop.
        ElasticsearchIndexError: If Elasticsearch refuses or stays away.
    """
    watched, tally, report = writer.watched, writer.tally, UpsertReport()
    letters: dict[str, StoredDeadLetter] = {}

    def items() -> Iterator[Pending]:
        for page in watched.feed.changes(writer.shard.number, claim.after, claim.upto, without, fault=fault):
            writer.heartbeat.check()
            known = watched.dead_letters.known(writer.shard, [change.id for change in page])
            letters.update(known)
            dead = {(i, stored_letter.letter.seq_no) for i, stored_letter in known.items()}
            undecided = [change for change in page if (change.id, change.seq_no) not in dead]
            found = [compare(change, watched.store.paths, watched.models) for change in undecided]
            for compared in found:
                writer.expect(compared)
            writer.bury((compared.change.id, compared.fault) for compared in found if compared.document is None)
            yield from (Pending(compared.document) for compared in found if compared.document is not None)

    def stored(ids: list[str], changed: bool) -> None:
        if not changed:
            tally.add(unchanged=len(ids))
            writer.done.extend(ids)
        progressed()

    Stream(watched.index.encoder, writer, report, stored).run(items())
    writer.bury(report.failed)
    tally.add(truncated=report.truncated)
    watched.dead_letters.remove(letters[i] for i in writer.done if i in letters)
