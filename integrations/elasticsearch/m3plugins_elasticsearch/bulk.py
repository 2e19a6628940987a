"""Writing in bulk: chunks of bounded size, our own patience, and every item's fate.

The client's helpers retry no lost connection and no timeout, and raise at a busy node whatever they are told
(measured with 8.19.3).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from elasticsearch import ApiError, TransportError

from m3plugins_elasticsearch.client import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Connection,
    ElasticsearchIndexError,
    errors,
    is_passing,
    with_fix,
)
from m3plugins_elasticsearch.mapping import WRITE_ALIAS

CHUNK_BYTES = 5 << 20
CHUNK_ITEMS = 500
_BUSY = (429, 503)
_ANSWER = "errors,items.*.status,items.*._seq_no,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"


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
        """In bytes."""
        return sum(map(len, self.lines)) + len(self.lines)


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


def index(id: str, document: Any, **condition: int) -> Action:  # noqa: A002
    """Stores a whole document.

    Args:
        id: The document's.
        document: JSON values and numpy arrays.
        condition: `if_seq_no` and `if_primary_term`, to store it only if nobody else has changed it.
    """
    return Action(id, (_line({"index": {"_id": id, **condition}}), _line(document)))


def update(id: str, fields: Any, **condition: int | str) -> Action:  # noqa: A002
    """Merges fields into a document that is there.

    Args:
        id: The document's.
        fields: JSON values and numpy arrays.
        condition: `if_seq_no` and `if_primary_term`, and `routing` where the document has one.
    """
    return Action(id, (_line({"update": {"_id": id, **condition}}), _line({"doc": fields})))


def delete(id: str, **condition: int) -> Action:  # noqa: A002
    """Deletes a document.

    Args:
        id: The document's.
        condition: `if_seq_no` and `if_primary_term`, to delete it only if nobody has changed it.
    """
    return Action(id, (_line({"delete": {"_id": id, **condition}}),))


def bulk(
    connection: Connection, target: str, actions: Iterable[Action], *, require_alias: bool = False
) -> Iterator[Outcome]:
    """Does the actions, streamed, in bounded memory and in their order; what fails for good is told, not raised.

    While one chunk is on its way the next one is made.

    A busy node, a lost connection and a timeout are tried again for the connection's patience, in ever smaller
    chunks: the actions may be repeated without harm.

    Args:
        connection: To Elasticsearch.
        target: The index or alias.
        actions: What to do.
        require_alias: Refuse to make an index of that name.

    Raises:
        ElasticsearchIndexError: If Elasticsearch refuses all of it, or stays away or busy for too long.
    """
    for chunk in _ahead(_chunks(actions)):
        yield from _send(connection, target, chunk, require_alias)


def _send(connection: Connection, target: str, chunk: list[Action], require_alias: bool) -> Iterator[Outcome]:
    """Sends a chunk until every item of it has an outcome."""
    waiting = [chunk]
    deadline, pause = math.inf, FIRST_PAUSE_S  # patience begins with the first fault
    while waiting:
        part = waiting.pop(0)
        lines: list[Any] = [line for action in part for line in action.lines]
        try:
            answer = connection.client.bulk(
                operations=lines,
                index=target,
                require_alias=require_alias,
                filter_path=_ANSWER,
            )
        except (ApiError, TransportError) as err:
            if isinstance(err, ApiError) and err.meta.status == 413:
                if len(part) == 1:
                    yield Outcome(part[0].id, 413, _too_large(part[0]))
                else:
                    waiting[:0] = _halves(part)
                continue
            deadline = min(deadline, time.monotonic() + connection.patience)
            if not is_passing(err) or time.monotonic() + pause > deadline:
                with errors(f"write to {target.removeprefix(WRITE_ALIAS)!r}"):
                    raise
            waiting[:0] = _halves(part)
        else:
            outcomes = [_outcome(action, item) for action, item in zip(part, answer["items"], strict=True)]
            again = [action for action, done in zip(part, outcomes, strict=True) if done.status in _BUSY]
            if len(again) < len(part):
                deadline, pause = math.inf, FIRST_PAUSE_S
            deadline = min(deadline, time.monotonic() + connection.patience)
            repeated = {action.id for action in again}
            yield from (_checked(done, target) for done in outcomes if done.id not in repeated)
            if again and time.monotonic() + pause > deadline:  # so none was taken for all that time
                (reason, *_) = (done.reason for done in outcomes if done.id in repeated)
                msg = f"cannot write to {target.removeprefix(WRITE_ALIAS)!r}: {reason}"
                raise ElasticsearchIndexError(msg)
            if not again:
                deadline = math.inf
                continue
            waiting.insert(0, again)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _outcome(action: Action, item: dict[str, Any]) -> Outcome:
    (done,) = item.values()
    error = done.get("error")
    if not error:
        return Outcome(action.id, done["status"], seq_no=done.get("_seq_no", -1))
    reason, cause = str(error.get("reason")), (error.get("caused_by") or {}).get("reason") or ""
    reasons = [error.get("type"), reason, "" if cause in reason else cause]
    return Outcome(action.id, done["status"], with_fix(" ".join(": ".join(r for r in reasons if r).split())[:500]))


def _checked(outcome: Outcome, target: str) -> Outcome:
    """The outcome.

    Raises:
        ElasticsearchIndexError: If the index itself is gone.
    """
    if "index_not_found_exception" in outcome.reason:
        msg = f"cannot write to {target.removeprefix(WRITE_ALIAS)!r}: the index was dropped meanwhile"
        raise ElasticsearchIndexError(msg)
    return outcome


def _too_large(action: Action) -> str:
    return (
        f"the document takes {action.size:,} bytes, over the node's http.max_content_length; raise that setting, cut "
        "the document into passages, or choose the codec binary"
    )


def _halves(part: list[Action]) -> list[list[Action]]:
    middle = (len(part) + 1) // 2
    return [half for half in (part[:middle], part[middle:]) if half]


def _ahead(chunks: Iterator[list[Action]]) -> Iterator[list[Action]]:
    """The chunks, each made in a thread while the one before is on its way."""
    with ThreadPoolExecutor(1, thread_name_prefix="m3-bulk") as pool:
        following = pool.submit(next, chunks, None)
        while chunk := following.result():
            following = pool.submit(next, chunks, None)
            yield chunk


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
