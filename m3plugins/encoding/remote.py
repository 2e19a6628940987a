"""A model that runs in a service (`m3 serve`): its embeddings and its tokenizer, fetched over HTTP."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import httpx
import numpy as np
from tokenizers import Tokenizer

from m3plugins.encoding.batching import bounded_runs
from m3plugins.encoding.loaded import Model
from m3plugins.encoding.options import EncoderOptions
from m3plugins.encoding.output import Head, M3Output
from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.encoding.shortening import Shortener
from m3plugins.encoding.tokenizing import Layout, check_text
from m3plugins.encoding.wire import MEDIA_TYPE, from_bytes

TOKEN = "M3_SERVICE_TOKEN"
"""Environment variable of the API key."""

PATIENCE_S = 60.0
"""Seconds for which a service that is busy or away is asked again."""

CHARACTERS_PER_REQUEST = 1 << 18
LONG = 1 << 14
"""Characters above which a text is cut here, so that no more of it is sent than the model reads."""

_TEXTS_PER_REQUEST = 256
_AHEAD = 2
"""Requests on their way at once."""

_LATER = (429, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class ServiceError(RuntimeError):
    """A service cannot be reached, or does not answer as `m3 serve` does."""


class RemoteSource:
    """A service, asked for what is known of its model.

    Args:
        url: Its address.
        options: Those of an encoder, none of which may be set: the service's own hold.
        token: The API key; by default that in `M3_SERVICE_TOKEN`.

    Raises:
        ValueError: If an option is set, or the address has a user's name or a password.
    """

    def __init__(self, url: str, options: EncoderOptions, token: str | None = None) -> None:
        _check_address(url)
        if given := [one.name for one in fields(options) if getattr(options, one.name) != one.default]:
            msg = f"{', '.join(given)} are the service's own, where the model runs; leave them out, or restart m3 serve"
            raise ValueError(msg)
        self.name = url
        self._client = _Client(url, token if token is not None else os.environ.get(TOKEN))

    @cached_property
    def _told(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self._client.get("/v1/info").json()
        return told

    @property
    def checkpoint(self) -> NoReturn:
        """Refuses: the model's files are where the service runs.

        Raises:
            ValueError: Always.
        """
        msg = f"the model's files are where the service {self.name} runs; name a folder or a hub id to have them here"
        raise ValueError(msg)

    def check(self) -> None:
        """Asks the service what it serves."""
        _ = self._told

    @property
    def description(self) -> Mapping[str, Any]:
        """What decides the vectors, by name."""
        described: Mapping[str, Any] = self._told["description"]
        return described

    @property
    def former_fingerprint(self) -> str:
        """What identifies the model in indexes that record no description."""
        return str(self._told["former_fingerprint"])

    @property
    def probes(self) -> Mapping[str, str]:
        """What the model makes of a few known texts."""
        probes: Mapping[str, str] = self._told["probes"]
        return probes

    @property
    def settings(self) -> dict[str, str]:
        """The service's backend and precision."""
        return dict(self._told["settings"])

    @property
    def prompts(self) -> Prompts:
        """What the model reads ahead of queries and of documents."""
        return Prompts(**self._told["prompts"])

    @property
    def query_max_length(self) -> int:
        """Tokens a query is cut to."""
        return int(self._told["query_max_length"])

    @property
    def document_max_length(self) -> int:
        """Tokens a document is cut to."""
        return int(self._told["document_max_length"])

    def load(self) -> RemoteModel:
        """Fetches the tokenizer."""
        query = Layout(self.query_max_length, prompt=self.prompts.query)
        return RemoteModel(self._client, self._told, query)


class RemoteModel(Model):
    """Encodes by asking a service, some requests ahead of what is read.

    Args:
        client: Of the service.
        told: What the service says of its model.
        query_layout: How queries are laid out for it; any other layout is that of documents.
    """

    def __init__(self, client: _Client, told: Mapping[str, Any], query_layout: Layout) -> None:
        self._client = client
        self._query_layout = query_layout
        self._most = min(_TEXTS_PER_REQUEST, int(told["max_texts"]))
        self.tokenizer = Tokenizer.from_str(client.get("/v1/tokenizer").text)
        self.dim, self.multi_vector_dim = int(told["dim"]), int(told["multi_vector_dim"])
        self.vocab_size = int(told["vocab_size"])
        self._shortener = Shortener(self.tokenizer)

    def stream(
        self, texts: Iterable[str], layout: Layout, heads: Sequence[Head], on_batch: Callable[[int], object]
    ) -> Iterator[M3Output]:
        """Yields the embeddings that the service makes, in the order of the texts."""
        kind = "query" if layout == self._query_layout else "document"
        waiting: deque[Future[M3Output]] = deque()
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="m3-remote") as pool:
            for texts_of_request in self._portions(texts, layout):
                waiting.append(pool.submit(self._ask, kind, texts_of_request, heads))
                if len(waiting) > _AHEAD:
                    yield _taken(waiting.popleft(), on_batch)
            while waiting:
                yield _taken(waiting.popleft(), on_batch)

    def renew(self) -> None:
        """Makes connections of its own in a forked process."""
        self._client.renew()

    def _portions(self, texts: Iterable[str], layout: Layout) -> Iterator[list[_Sent]]:
        """Yields the texts, as many at a time as fit a request, each as far as the model reads it."""

        def sent() -> Iterator[_Sent]:
            for position, text in enumerate(texts):
                check_text(text, position)
                read, is_whole = self._shortener.shorten(text, layout.max_length) if len(text) > LONG else (text, True)
                yield _Sent(read, not is_whole)

        least = max(CHARACTERS_PER_REQUEST // self._most, 1)
        return bounded_runs(sent(), lambda one: max(len(one.text), least), CHARACTERS_PER_REQUEST)

    def _ask(self, kind: str, texts: Sequence[_Sent], heads: Sequence[Head]) -> M3Output:
        body = {"input": [one.text for one in texts], "kind": kind, "heads": list(heads)}
        output = from_bytes(self._client.encode(body))
        return replace(output, truncated=output.truncated | np.array([one.is_cut for one in texts], np.bool_))


class _Sent(NamedTuple):
    """A text as it is sent, and whether it was cut where the service cannot see it."""

    text: str
    is_cut: bool


def _taken(answer: Future[M3Output], on_batch: Callable[[int], object]) -> M3Output:
    output = answer.result()
    on_batch(len(output))
    return output


def _check_address(url: str) -> None:
    """Refuses what is no address of a service, without repeating it: it may hold a password.

    Raises:
        ValueError: If so.
    """
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL:
        host = ""
    if not host or "@" in url:
        msg = f"a service's address is http(s)://host[:port], with no user or password; give token=, or set {TOKEN}"
        raise ValueError(msg)


class _Client:
    """Asks a service, again where it is busy or away for a moment."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self.renew()

    def renew(self) -> None:
        self._http = httpx.Client(base_url=self._url, headers=self._headers, timeout=httpx.Timeout(300, connect=5))

    def get(self, path: str) -> httpx.Response:
        return self._send(self._http.build_request("GET", path))

    def encode(self, body: Mapping[str, Any]) -> bytes:
        request = self._http.build_request("POST", "/v1/encode", json=body, headers={"accept": MEDIA_TYPE})
        return self._send(request).content

    def _send(self, request: httpx.Request) -> httpx.Response:
        until, turn = time.monotonic() + PATIENCE_S, 0
        while True:
            wait = random.uniform(0, min(_FIRST_PAUSE_S * 2**turn, _LONGEST_PAUSE_S))
            try:
                answer = self._http.send(request)
            except httpx.TransportError as err:
                reason = f"cannot be reached ({type(err).__name__})"
            else:
                if answer.is_success:
                    return answer
                reason = f"says {answer.status_code}: {_message(answer)}"
                if answer.status_code not in _LATER:
                    self._refuse(answer.status_code, reason)
                wait = max(wait, float(answer.headers.get("retry-after", 0)))
            if time.monotonic() + wait > until:
                msg = f"the service {self._url} {reason}; check the address, and that it is up"
                raise ServiceError(msg)
            time.sleep(wait)
            turn += 1

    def _refuse(self, status: int, reason: str) -> NoReturn:
        msg = f"the service {self._url} {reason}"
        if status == 401:
            msg += f"; give token=, or set {TOKEN}"
        raise ValueError(msg) if status in (401, 413, 422) else ServiceError(msg)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return "it is no service of m3plugins, as far as its answer tells"
