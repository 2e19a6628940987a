"""What `m3 doctor` says of Milvus Lite's files, and restores of them if it is asked to."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from m3plugins_milvus import damage
from m3plugins_milvus.address import is_server
from m3plugins_milvus.client import MilvusIndexError, connect, errors, lite_path
from m3plugins_milvus.damage import Damage
from m3plugins_milvus.folder import Folder, databases, indexes
from m3plugins_milvus.restoring import plan

if TYPE_CHECKING:
    from m3plugins.cli.checks import Check

BACKUP = "replaced-by-m3-doctor"
"""A folder in Milvus Lite's own, which Lite does not read."""


def checks(uri: str = "", token: str | None = None, *, repair: bool = False) -> Iterator[Check]:
    """Lines of `m3 doctor`: the packages by themselves, and what is at an address.

    Args:
        uri: A path of Milvus Lite, or a server's URL.
        token: The server's API key, or "user:password".
        repair: Whether to restore what can be of damaged files. A copy of what is replaced is kept.
    """
    from m3plugins.cli.checks import Check

    yield Check("milvus client", "ok", f"pymilvus {version('pymilvus')}, milvus-lite {version('milvus-lite')}")
    if not uri:
        return
    try:
        if is_server(uri):
            with closing(connect(uri, token)) as connection, errors("list the collections"):
                names = connection.client.list_collections()
            yield Check("milvus server", "ok", f"it answers and has {len(names)} collections")
        elif not Path(path := lite_path(uri), "collections").is_dir():
            yield Check("milvus file", "warn", f"there is none of Milvus Lite at {path}", "m3 index makes one")
        else:
            with _alone(Path(path)):
                yield from _file(Path(path), repair)
    except (MilvusIndexError, ValueError) as err:
        yield Check("milvus", "broken", str(err))


def _file(uri: Path, repair: bool) -> Iterator[Check]:
    from m3plugins.cli.checks import Check

    backup = uri / BACKUP / time.strftime("%Y-%m-%d-%H%M%S")
    for database, documents, blocks in ((name, *pair) for name in databases(uri) for pair in indexes(uri, name)):
        name = f"{database}/{documents.name}" if database else documents.name
        found = damage.find_in_index(documents, blocks)
        if not found:
            yield Check(f"index {name}", "ok", "its files are whole")
        for folder in (documents, blocks):
            own = [one for one in found if one.file.is_relative_to(folder.path)]
            if own:
                yield _damaged(uri, folder, own, backup if repair else None)
    for one in damage.damaged_aliases(uri):
        yield Check("aliases", "broken", str(one), "move it elsewhere and point the aliases again with swap()")


def _damaged(uri: Path, folder: Folder, found: list[Damage], backup: Path | None) -> Check:
    from m3plugins.cli.checks import Check

    name, told = f"collection {folder.name}", "; ".join(map(str, found))
    way = plan(folder, found)
    if way is None:
        fix = "put back what is missing from a copy, make readable what cannot be read, move away what is not Milvus "
        return Check(name, "broken", told, fix + "Lite's; without a copy, move the index's two folders away and index")
    if backup is None:
        return Check(name, "broken", f"{told}: {way.told}", f"m3 doctor --engine milvus --uri {uri} --repair")
    way.carry_out(uri, backup)
    if left := damage.find(folder):
        return Check(
            name, "broken", f"{'; '.join(map(str, left))}, also after a repair", f"what it replaced is in {backup}"
        )
    again = "then run the same m3 index again, which adds the documents that are lost"
    return Check(name, "warn", f"{told}: repaired ({way.told}); what was replaced is in {backup}", again)


@contextmanager
def _alone(uri: Path) -> Iterator[None]:
    """While no process has the files open.

    Raises:
        MilvusIndexError: If one has.
    """
    lock = uri / "LOCK"
    if sys.platform == "win32" or not lock.is_file():
        yield
        return
    import fcntl

    with lock.open("r+b") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            msg = f"cannot look at {uri}: a process has it open; close it there first"
            raise MilvusIndexError(msg) from err
        yield
