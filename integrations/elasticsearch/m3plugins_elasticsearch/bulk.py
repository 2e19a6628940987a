"""Writing in bulk: chunks of bounded size, our own patience, and every item's fate.

The client's helpers retry no lost connection and no timeout, and raise at a busy node whatever they are told
(measured with 8.19.3).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import orjson
from elasticsearch import ApiError, TransportError

from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError, errors, is_passing, pauses, with_fix
from m3plugins_elasticsearch.mapping import WRITE_ALIAS
from m3plugins_elasticsearch.ordered_map import ordered_map

CHUNK_BYTES = 5 << 20
CHUNK_ITEMS = 500
AT_ONCE = 2
"""Requests under way: with one, the node has nothing to do while the next is sent and its answer read."""
GONE, CONFLICT = 404, 409
"""What a conditional write is answered if there is no such document, or not in the version that was read."""
_BUSY = (429, 503)
_ANSWER = "errors,items.*.status,items.*._seq_no,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"


class IndexDroppedError(ElasticsearchIndexError):
    """The index is not there any more."""


@dataclass(frozen=True)
class Action:
    """One thing to do to one document; `index`, `update` and `delete` make them.

    Attributes:
        id: The document's.
        lines: One or two lines of JSON.
    """

    id: str
    lines: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(map(len, self.lines)) + len(self.lines)

    @property
    def deletes(self) -> bool:
        """Whether it deletes the document: nothing of it is sent."""
        return len(self.lines) == 1


@dataclass(frozen=True)
class Outcome:
    """What became of an action.

    Attributes:
        id: The document's.
        status: An HTTP status: 409 is a conflict, 404 a document that is not there.
        reason: Why it failed; "" if it did not.
        seq_no: Number of the change that it was in its shard; -1 if it was none.
    """

    id: str
    status: int
    reason: str = ""
    seq_no: int = -1


def index(id: str, document: Any, **condition: int | str) -> Action:
    """Stores a whole document.

    Args:
        id: The document's.
        document: JSON values and numpy arrays.
        condition: `if_seq_no` and `if_primary_term`, to store it only if nobody else has changed it; `op_type`
            "create", to store it only if there is none.
    """
    return Action(id, (_line({"index": {"_id": id, **condition}}), _line(document)))


def update(id: str, fields: Any, **condition: int | str) -> Action:
    """Merges fields into a document that is there.

    Args:
        id: The document's.
        fields: JSON values and numpy arrays.
        condition: `if_seq_no` and `if_primary_term`, and `routing` where the document has one.
    """
    return Action(id, (_line({"update": {"_id": id, **condition}}), _line({"doc": fields})))


def delete(id: str, **condition: int) -> Action:
    """Deletes a document.

    Args:
        id: The document's.
        condition: `if_seq_no` and `if_primary_term`, to delete it only if nobody has changed it.
    """
    return Action(id, (_line({"delete": {"_id": id, **condition}}),))


def bulk(
    connection: Connection, target: str, actions: Iterable[Action], *, require_alias: bool = False
) -> Iterator[Outcome]:
    """Does the actions, streamed, in bounded memory; what fails for good is told, in their order, and not raised.

    While some chunks are on their way the next one is made. Two actions with one id are done in their order only if
    they are in one chunk.

    A busy node, a lost connection and a timeout are tried again for the connection's patience, in ever smaller
    chunks: the actions may be repeated without harm. A deletion that was sent before and not answered counts as done
    if the document is gone, also where it never was there.

    Args:
        connection: To Elasticsearch.
        target: The index or alias.
        actions: What to do.
        require_alias: Refuse to make an index of that name.

    Raises:
        IndexDroppedError: If there is no such index any more.
        ElasticsearchIndexError: If Elasticsearch refuses all of it, or stays away or busy for too long.
    """
    sender = _Sender(connection, target, require_alias)
    chunks = takewhile(lambda _: not sender.ended.is_set(), _chunks(actions))
    fault: Exception | None = None
    with closing(ordered_map(sender.fate, chunks, AT_ONCE)) as fates:
        try:
            for outcomes, problem in fates:
                yield from outcomes
                fault = fault or problem
        finally:
            sender.ended.set()
    if fault:
        raise fault


_Fate = tuple[list[Outcome], Exception | None]
"""The outcomes of a chunk's actions, and what kept it from having them all."""


@dataclass(frozen=True)
class _Sender:
    """Sends the chunks of one call.

    Attributes:
        connection: To Elasticsearch.
        target: The index or alias.
        require_alias: Refuse to make an index of that name.
        ended: Set when a chunk could not be done, or nobody listens any more: then nothing more is sent.
    """

    connection: Connection
    target: str
    require_alias: bool
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def _doing(self) -> str:
        return f"write to {self.target.removeprefix(WRITE_ALIAS)!r}"

    def fate(self, chunk: list[Action]) -> _Fate:
        """Does the actions of a chunk."""
        outcomes: list[Outcome] = []
        try:
            for outcome in self._send(chunk):
                outcomes.append(outcome)  # one by one: what came before a fault is kept
        except Exception as err:
            self.ended.set()
            return outcomes, err
        return outcomes, None

    def _send(self, chunk: list[Action]) -> Iterator[Outcome]:
        """Sends a chunk until every item of it has an outcome, or the call has ended."""
        waiting, unanswered = [chunk], set[str]()
        patience: Iterator[float] | None = None  # begins with the first fault
        while waiting and not self.ended.is_set():
            part = waiting.pop(0)
            lines: list[Any] = [line for action in part for line in action.lines]
            try:
                answer = self.connection.client.bulk(
                    operations=lines,
                    index=self.target,
                    require_alias=self.require_alias,
                    filter_path=_ANSWER,
                )
            except (ApiError, TransportError) as err:
                if isinstance(err, ApiError) and err.meta.status == 413:
                    if len(part) == 1:
                        yield Outcome(part[0].id, 413, _too_large(part[0]))
                    else:
                        waiting[:0] = _halves(part)
                    continue
                patience = patience or pauses(time.monotonic() + self.connection.patience)
                pause = next(patience, None) if is_passing(err) else None
                if pause is None:
                    with errors(self._doing):
                        raise
                if not isinstance(err, ApiError) or err.meta.status not in _BUSY:
                    unanswered.update(action.id for action in part)
                waiting[:0] = _halves(part)
            else:
                outcomes = [_outcome(action, item) for action, item in zip(part, answer["items"], strict=True)]
                again = [action for action, done in zip(part, outcomes, strict=True) if done.status in _BUSY]
                if len(again) < len(part):
                    patience = None
                repeated = {action.id for action in again}
                gone = self._gone(part, outcomes, unanswered)
                for done in outcomes:
                    if done.id in gone:
                        yield Outcome(done.id, 200)
                    elif done.id not in repeated:
                        yield self._checked(done)
                if not again:
                    continue
                patience = patience or pauses(time.monotonic() + self.connection.patience)
                pause = next(patience, None)
                if pause is None:  # so none was taken for all that time
                    (reason, *_) = (done.reason for done in outcomes if done.id in repeated)
                    msg = f"cannot {self._doing}: {reason}"
                    raise ElasticsearchIndexError(msg)
                waiting.insert(0, again)
            self.ended.wait(pause)

    def _gone(self, part: list[Action], outcomes: list[Outcome], unanswered: set[str]) -> set[str]:
        """Finds the deletions that were done before, unanswered, and are refused now: their documents are gone."""
        asked = [
            action.id
            for action, done in zip(part, outcomes, strict=True)
            if action.id in unanswered and action.deletes and done.status in (GONE, CONFLICT)
        ]
        if not asked:
            return set()
        name, mget = self.target.removeprefix(WRITE_ALIAS), self.connection.client.mget
        answer = self.connection.read(f"read from {name!r}", lambda: mget(index=self.target, ids=asked, source=False))
        return {item["_id"] for item in answer["docs"] if item.get("found") is False}

    def _checked(self, outcome: Outcome) -> Outcome:
        """The outcome.

        Raises:
            IndexDroppedError: If the index itself is gone.
        """
        if "index_not_found_exception" in outcome.reason:
            msg = f"cannot {self._doing}: the index was dropped meanwhile"
            raise IndexDroppedError(msg)
        return outcome


def _outcome(action: Action, item: dict[str, Any]) -> Outcome:
    (done,) = item.values()
    error = done.get("error")
    if not error:
        return Outcome(action.id, done["status"], seq_no=done.get("_seq_no", -1))
    reason, cause = str(error.get("reason")), (error.get("caused_by") or {}).get("reason") or ""
    reasons = [error.get("type"), reason, "" if cause in reason else cause]
    return Outcome(action.id, done["status"], with_fix(" ".join(": ".join(r for r in reasons if r).split())[:500]))


def _too_large(action: Action) -> str:
    return (
        f"the document takes {action.size:,} bytes, over the node's http.max_content_length; raise that setting, cut "
        "the document into passages, or choose the codec binary"
    )


def _halves(part: list[Action]) -> list[list[Action]]:
    middle = (len(part) + 1) // 2
    return [half for half in (part[:middle], part[middle:]) if half]


def _chunks(actions: Iterable[Action]) -> Iterator[list[Action]]:
    chunk: list[Action] = []
    size = 0
    for action in actions:
        if chunk and (size + action.size > CHUNK_BYTES or len(chunk) == CHUNK_ITEMS):
            yield chunk
            chunk, size = [], 0
        chunk.append(action)
        size += action.size
    if chunk:
        yield chunk


def _line(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def failures(outcomes: Iterable[Outcome], allowed: Sequence[int] = ()) -> dict[str, str]:
    """The reasons of those that failed, by id; statuses that are `allowed` are no failures."""
    return {done.id: done.reason for done in outcomes if done.reason and done.status not in allowed}
