"""Connections: Milvus Lite's files and locks, servers, and one error type for both."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

LITE_MINIMUM = (3, 2, 2)
"""Milvus Lite 3.0 to 3.2.1 ranks sparse inner products as if they were BM25."""


class MilvusIndexError(RuntimeError):
    """Milvus refused a call or could not be reached."""


@dataclass(frozen=True)
class Connection:
    """A client, and what has to be known about the other side.

    Attributes:
        client: The only pymilvus class used here (the ORM goes away in pymilvus 3.1).
        uri: What the collections of one writer lock have in common: an absolute path or a URL.
        lite: Whether this is Milvus Lite, inside this process.
    """

    client: MilvusClient
    uri: str
    lite: bool

    def close(self) -> None:
        """Ends the connection; the last one to a Lite file frees the file for other processes."""
        with _registry:
            self.client.close()
            _users[self.uri] -= 1
            if not _users[self.uri]:
                del _users[self.uri]
                # pymilvus leaves the engine running and the file locked.
                if self.lite and self.uri in _started:
                    from milvus_lite.server_manager import server_manager_instance

                    _started.discard(self.uri)
                    server_manager_instance.release_server(self.uri)


# Milvus Lite is one engine per file and process, so who uses it is known per process.
_registry = threading.RLock()
_users: dict[str, int] = {}
_started: set[str] = set()
_writers: dict[tuple[str, str], threading.RLock] = {}
_handled: ContextVar[bool] = ContextVar("handled", default=False)


def connect(uri: str | Path, token: str | None = None, timeout: float | None = None) -> Connection:
    """Connects to a server (a URL) or to Milvus Lite (a path that ends in `.db`).

    Raises:
        ValueError: If the path cannot be one of Milvus Lite.
        MilvusIndexError: If the file is in use, the server does not answer, or Lite is too old.
    """
    lite = "://" not in str(uri)
    if lite:
        uri = _lite_path(Path(uri))
    uri = str(uri)
    with _registry:
        running = lite and _is_running(uri)
        with errors(f"open {uri}"):
            client = MilvusClient(uri, token=token or "", timeout=timeout)
        if lite and not running:
            _started.add(uri)
        _users[uri] = _users.get(uri, 0) + 1
    connection = Connection(client, uri, lite)
    try:
        with errors(f"open {uri}"):
            version = client.get_server_version()
        if lite and tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < LITE_MINIMUM:
            msg = f"Milvus Lite must be 3.2.2 or later to rank sparse vectors right, got {version}; upgrade milvus-lite"
            raise MilvusIndexError(msg)
    except BaseException:
        connection.close()
        raise
    return connection


def writer_lock(connection: Connection, name: str) -> threading.RLock:
    """The lock that the writers of one collection in this process share."""
    with _registry:
        return _writers.setdefault((connection.uri, name), threading.RLock())


@contextmanager
def errors(doing: str) -> Iterator[None]:
    """Turns pymilvus' and gRPC's errors into `MilvusIndexError`, without pymilvus' logged tracebacks.

    Args:
        doing: What the block does, for the message: "cannot {doing}: ...".
    """
    token = _handled.set(True)
    try:
        yield
    except MilvusException as err:
        message = getattr(err, "message", "") or str(err)
        if "Open local milvus failed" in message:
            message = "another process has it open (Milvus Lite is for one process); close it there or use a server"
        msg = f"cannot {doing}: {message}"
        raise MilvusIndexError(msg) from err
    except grpc.RpcError as err:
        details = err.details() if isinstance(err, grpc.Call) else str(err)
        msg = f"cannot {doing}: {details}"
        raise MilvusIndexError(msg) from err
    finally:
        _handled.reset(token)


def _lite_path(path: Path) -> str:
    path = path.expanduser().resolve()
    if path.suffix != ".db":
        msg = f"uri must be a server's URL (http://localhost:19530) or a path that ends in .db, got {str(path)!r}"
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"the folder of a Milvus Lite file must exist, got {str(path)!r}; create {str(path.parent)!r} first"
        raise ValueError(msg)
    return str(path)


def _is_running(path: str) -> bool:
    """Whether someone else in this process opened the file: then it is not ours to release."""
    try:
        from milvus_lite.server_manager import server_manager_instance
    except ImportError as err:
        msg = "a path needs Milvus Lite, which this Python has not; pip install milvus-lite, or use a server's URL"
        raise MilvusIndexError(msg) from err
    return path in server_manager_instance._servers and path not in _started


class _HandledElsewhere(logging.Filter):
    """Drops the traceback of an error that `errors` turns into an exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _handled.get()


for _name in ("pymilvus.decorators", "pymilvus.client.connection_manager", "milvus_lite.server_manager"):
    logging.getLogger(_name).addFilter(_HandledElsewhere())
