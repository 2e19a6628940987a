"""Answers of which no part is missing: a search or a count that fails in some shards is answered with status 200."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from elastic_transport import ApiResponse, ApiResponseMeta
from elasticsearch import ApiError

T = TypeVar("T")

_STATUSES: Mapping[str, int] = {
    "circuit_breaking_exception": 429,
    "es_rejected_execution_exception": 429,
    "illegal_index_shard_state_exception": 503,
    "index_not_found_exception": 404,
    "no_shard_available_action_exception": 503,
    "unavailable_shards_exception": 503,
}
_SHOWN = 3


def item_error(item: Mapping[str, Any], meta: ApiResponseMeta) -> ApiError:
    """The error of one item of an answer to several requests, as if it had been asked for alone."""
    kind = str(item["error"].get("type"))
    return ApiError(kind, replace(meta, status=item.get("status") or _STATUSES.get(kind, 400)), dict(item))


def whole(answer: T) -> T:
    """The answer, if every shard that was asked is in it.

    Raises:
        ApiError: If not; see `check_whole`.
    """
    if isinstance(answer, ApiResponse) and isinstance(answer.body, dict):
        check_whole(answer.body, answer.meta)
    return answer


def check_whole(answer: Mapping[str, Any], meta: ApiResponseMeta) -> None:
    """Passes if every shard that was asked is in an answer, or in an item of one.

    Raises:
        ApiError: If not, as if the first failure had been answered; it names the shards.
    """
    shards = answer.get("_shards") or {}
    failures = list(shards.get("failures") or [])
    if answer.get("timed_out"):
        failures.insert(0, {"reason": {"type": "timed_out", "reason": "raise search.default_search_timeout"}})
    if "result" in answer or not (failures or shards.get("failed")):  # a write is done once its primary has it
        return
    kind = str((failures[0].get("reason") or {}).get("type")) if failures else "unavailable_shards_exception"
    reason = f"{shards.get('failed', 0)} of {shards.get('total', 0)} shards are not in the answer"
    told = "; ".join([reason, *map(_told, failures[:_SHOWN])])
    raise item_error({"error": {"type": kind, "reason": told}}, meta)


def _told(failure: Mapping[str, Any]) -> str:
    """Which shard, and why."""
    reason = failure.get("reason") or {}
    place = f"[{failure['index']}][{failure.get('shard')}] " if "index" in failure else ""
    causes = (reason.get("type"), reason.get("reason"), (reason.get("caused_by") or {}).get("reason"))
    return place + ": ".join(str(cause) for cause in causes if cause)
