"""Connections: Milvus Lite's files and locks, servers, and one error type for both."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pymilvus
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from m3plugins_milvus import damage, repair
from m3plugins_milvus.address import Address, is_server, server_address
from m3plugins_milvus.capabilities import Capabilities, capabilities
from m3plugins_milvus.folder import Folder, indexes
from m3plugins_milvus.record import Record

CONNECT_SECONDS = 10.0
"""pymilvus 2.6.10 to 2.6.12 would wait forever."""


class MilvusIndexError(RuntimeError):
    """Milvus refused a call or could not be reached."""


@dataclass(frozen=True)
class Connection:
    """A client, and what has to be known about the other side.

    Attributes:
        client: The only pymilvus class used here (the ORM goes away in pymilvus 3.1).
        address: Of the other side.
        capabilities: What the other side can do.
        closed: Set once it was closed.
    """

    client: MilvusClient
    address: Address
    capabilities: Capabilities
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def uri(self) -> str:
        """What the collections of one writer lock have in common: an absolute path, or a URL without credentials."""
        return self.address.place

    @property
    def lite(self) -> bool:
        """Whether this is Milvus Lite."""
        return self.capabilities.lite

    @property
    def exclusive(self) -> bool:
        """Whether no other process can be there: a file of Milvus Lite is for one."""
        return not is_server(self.address.uri)

    @contextmanager
    def calls(self, doing: str) -> Iterator[None]:
        """`errors`, and no call to Lite after it failed to write a file.

        Its log may then end within a batch, and its unwritten rows be forgotten until it is opened again: what it
        accepts afterwards would be lost.
        """
        if self.address.uri in _failed:
            msg = f"cannot {doing}: a write to {self.uri} failed before; close its indexes and open them again"
            raise MilvusIndexError(msg)
        try:
            with errors(doing):
                yield
        except MilvusIndexError as err:
            if self.lite and "[Errno" in str(err):
                _failed.add(self.address.uri)
            raise
        except Exception as err:  # pymilvus' versions have many for a closed client
            if not self.closed.is_set():
                raise
            msg = f"cannot {doing}: it was closed meanwhile"
            raise MilvusIndexError(msg) from err

    def folder(self, name: str) -> Folder | None:
        """Where Milvus Lite keeps a collection, if it is here."""
        return Folder.of(self.address.uri, self.address.database, name) if self.exclusive else None

    def resolve(self, name: str) -> str:
        """The collection that a name or an alias stands for. Lite itself would read the collection to say so."""
        if self.exclusive:
            aliases, found = damage.aliases(self.address.uri, self.address.database)
            self._refuse(f"the aliases of {self.uri} are", found)
            return aliases.get(name, name)
        with errors(f"look for {name!r}"):
            there = self.client.has_collection(name)
            return str(self.client.describe_collection(name)["collection_name"]) if there else name

    def check(self, documents: str, blocks: str) -> None:
        """Refuses an index whose files in Milvus Lite are damaged, before Lite reads them.

        Lite would go on with what is left, and delete what it does not know.

        Raises:
            MilvusIndexError: It names each file, and the way out.
        """
        pair = [folder for folder in map(self.folder, (documents, blocks)) if folder is not None]
        with _recording:
            if self.address.uri not in _started or all(folder in _records for folder in pair):
                return  # a server, or Lite is reading them already
            self._refuse(f"the index {documents!r} is", damage.find_in_index(*pair))
            for folder in pair:
                _records[folder] = record = Record.read(folder)
                repair.drop_written_logs(folder)
                repair.drop_damaged_indexes(folder, record)

    def check_all(self) -> None:
        """`check`, of every index of the database: Lite reads all collections to list them."""
        if self.exclusive:
            for documents, blocks in indexes(self.address.uri, self.address.database):
                self.check(documents.name, blocks.name)

    def _refuse(self, subject: str, found: Sequence[damage.Damage]) -> None:
        if found:
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            msg = (
                f"{subject} damaged: {'; '.join(map(str, found[:3]))}{more}. Nothing was changed; "
                f"`m3 doctor --engine milvus --uri {self.address.uri}` says what can be restored"
            )
            raise MilvusIndexError(msg)

    def record(self, name: str) -> None:
        """Records a collection's files after a write, by which a later loss is noticed.

        Raises:
            MilvusIndexError: If that fails.
        """
        folder = self.folder(name)
        with _recording:
            if folder in _records:
                _record(folder)

    def close(self) -> None:
        """Ends the connection; the last one to a Lite file frees the file for other processes."""
        self.closed.set()
        _close(self.client, self.address.uri)


# Milvus Lite is one engine per file and process, so who uses it is known per process.
_registry = threading.RLock()
_users: dict[str, int] = {}
_started: set[str] = set()
_failed: set[str] = set()
_recording = threading.RLock()
_records: dict[Folder, Record | None] = {}
"""Records of the collections that Lite may be reading: they were found undamaged before."""
_parents: list[object] = []
_writers: dict[tuple[str, str], threading.RLock] = {}
_handled: ContextVar[bool] = ContextVar("handled", default=False)
_cause: ContextVar[BaseException | None] = ContextVar("cause", default=None)


def connect(
    uri: str | Path, token: str | None = None, timeout: float | None = None, *, database: str | None = None
) -> Connection:
    """Connects to a server or to Milvus Lite.

    Certificates of https are checked against the system's authorities, or those in the file that the
    environment variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.

    Args:
        uri: A path that ends in `.db` (Milvus Lite), or a server's
            `http(s)://[user:password@]host[:port][/database]`, `tcp://` likewise, or `unix:path`.
        token: An API key or "user:password", instead of those in the URI.
        timeout: Seconds to wait for an answer; 10 by default.
        database: Name of the database, instead of the one in the URI.

    Raises:
        ValueError: If the URI is none, or the path cannot be one of Milvus Lite.
        MilvusIndexError: If the file is in use, or the server does not answer or is too old.
    """
    if is_server(uri):
        address = server_address(str(uri), token, database)
    else:
        address = Address(lite_path(uri), token or "", database or "")
    seconds = CONNECT_SECONDS if timeout is None else timeout
    with _registry:
        running = is_server(uri) or _is_running(address.uri)
        with errors(f"open {address.place}"):
            client = _client(address, seconds)
        if not running and address.uri not in _started:
            repair.finish_dropping(address.uri)
            _started.add(address.uri)
        _users[address.uri] = _users.get(address.uri, 0) + 1
    try:
        with errors(f"open {address.place}"):
            able = capabilities(client.get_server_version(timeout=seconds))
        if able.fault:
            raise MilvusIndexError(able.fault)
    except BaseException:
        _close(client, address.uri)
        raise
    return Connection(client, address, able)


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
            message = str(_cause.get())
            if "another process holds the lock" in message:
                message = "another process has it open (Milvus Lite is for one process); close it there or use a server"
        msg = f"cannot {doing}: {' '.join(message.split())}"
        raise MilvusIndexError(msg) from err
    except grpc.RpcError as err:
        details = err.details() if isinstance(err, grpc.Call) else str(err)
        msg = f"cannot {doing}: {details}"
        raise MilvusIndexError(msg) from err
    finally:
        _handled.reset(token)


def _client(address: Address, seconds: float) -> MilvusClient:
    """A client with a channel of its own: pymilvus shares one for each host and token, and never closes it."""
    # Channels to one address would share the time that gRPC waits after a failure, and Lite takes ports used before.
    channel = {"grpc.use_local_subchannel_pool": 1}
    if not is_server(address.uri):
        channel["grpc.keepalive_permit_without_calls"] = 0  # Lite tells idle clients off, on stderr
    options: dict[str, Any] = {"grpc_options": channel}
    if address.uri.startswith("unix:") and pymilvus.__version__ == "2.6.10":
        options["address"] = address.uri  # it would look for a host
    return MilvusClient(
        address.uri, token=address.token, db_name=address.database, timeout=seconds, dedicated=True, **options
    )


def _close(client: MilvusClient, uri: str) -> None:
    with _registry:
        client.close()
        _users[uri] -= 1
        if not _users[uri]:
            del _users[uri]
            _failed.discard(uri)
            if uri in _started:
                _release(uri)


def _release(uri: str) -> None:
    """Ends Lite (pymilvus leaves it running and the file locked), and records what it wrote at its end."""
    from milvus_lite.server_manager import server_manager_instance

    _started.discard(uri)
    server_manager_instance.release_server(uri)
    with _recording:
        for folder in [folder for folder in _records if folder.path.is_relative_to(uri)]:
            with suppress(MilvusIndexError):  # the record before says less, and nothing wrong
                _record(folder)
            del _records[folder]


def _record(folder: Folder) -> None:
    try:
        if (taken := Record.take(folder, _records[folder])) is not None and taken != _records[folder]:
            taken.write(folder)
            _records[folder] = taken
    except (OSError, ValueError) as err:
        msg = f"cannot record the files of {folder.path}: {err}"
        raise MilvusIndexError(msg) from err


@atexit.register
def _release_all() -> None:
    for uri in list(_started):
        _release(uri)


def _forget() -> None:
    """Lets go of the parent's engine of Lite in a forked process: no other may write its files, not at exit either."""
    global _registry, _recording
    _registry, _recording = threading.RLock(), threading.RLock()
    for state in (_users, _started, _failed, _records, _writers):
        state.clear()
    if (module := sys.modules.get("milvus_lite.server_manager")) is not None:
        manager = module.server_manager_instance
        _parents.append(manager._servers)  # never freed, which would end them
        manager._servers, manager._lock = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def lite_path(uri: str | Path) -> str:
    """The absolute path of a Milvus Lite file.

    Raises:
        ValueError: If it cannot be one.
    """
    path = Path(uri).expanduser().resolve()
    if path.suffix != ".db":
        got = "one with an @, which may hold a password" if "@" in str(uri) else repr(str(path))
        msg = f"uri must be a server's URL (http://localhost:19530) or a path that ends in .db, got {got}"
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
        _cause.set(record.exc_info[1] if record.exc_info else None)  # pymilvus says only that it failed
        return not _handled.get()


for _name in ("pymilvus.decorators", "pymilvus.client.connection_manager", "milvus_lite.server_manager"):
    logging.getLogger(_name).addFilter(_HandledElsewhere())
