"""Batches of queries, encoded together and searched as single runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, run_in_executor

from m3plugins import M3Encoder

TOGETHER = 100
"""Queries encoded at a time: their embeddings fit the encoder's memo, however long the queries are."""

Configs = RunnableConfig | list[RunnableConfig] | None


class BatchedQueries(BaseRetriever):
    """A retriever whose `batch` and `abatch` encode the queries together; each is still a run of its own."""

    @abstractmethod
    def _encoder(self) -> M3Encoder:
        """Returns the encoder of the queries."""

    def batch(
        self, inputs: list[str], config: Configs = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[list[Document]]:
        """Invokes the retriever for several queries, in their order, with the same keywords."""
        outputs: list[list[Document]] = []
        for queries, configs in _parts(inputs, config):
            self._encode(queries)
            outputs += super().batch(queries, configs, return_exceptions=return_exceptions, **kwargs)
        return outputs

    async def abatch(
        self, inputs: list[str], config: Configs = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[list[Document]]:
        """Awaits `ainvoke` for several queries, in their order, with the same keywords."""
        outputs: list[list[Document]] = []
        for queries, configs in _parts(inputs, config):
            await run_in_executor(None, self._encode, queries)
            outputs += await super().abatch(queries, configs, return_exceptions=return_exceptions, **kwargs)
        return outputs

    def _encode(self, queries: list[str]) -> None:
        with suppress(Exception):  # each run meets the error again, and reports it to its own callbacks
            self._encoder().memo.encode_queries(queries)


def _parts(inputs: list[str], config: Configs) -> Iterator[tuple[list[str], list[RunnableConfig]]]:
    configs = get_config_list(config, len(inputs)) if inputs else []
    for start in range(0, len(inputs), TOGETHER):
        yield inputs[start : start + TOGETHER], configs[start : start + TOGETHER]
