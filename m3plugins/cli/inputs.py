"""Inputs of `m3 index`: JSON lines, CSV, and folders of files, as streams of documents."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from m3plugins import loaders
from m3plugins.cli import tables
from m3plugins.cli.errors import CallError
from m3plugins.cli.seen import Seen
from m3plugins.indexing.corpus import Rejected, read_places
from m3plugins.indexing.document import Document

_LINK = "symbolic link"

Item = Document | Rejected


@dataclass(frozen=True)
class Source:
    """A stream of documents, with what is known of it beforehand.

    Attributes:
        read: Begins the stream, with a `Rejected` for each place without a document, or with one of an id met before.
        count: Counts them, as fast as the format allows.
        folder: The metadata "source" of all its documents, if they are the files of a folder.
        skipped: Files that are passed over, by ending.
        wanting: Skipped files that the extra `loaders` would read, by ending.
        prunable: Whether documents can be gone from the source.
    """

    read: Callable[[], Iterator[Item]]
    count: Callable[[], int]
    folder: str = ""
    skipped: Mapping[str, int] = field(default_factory=dict)
    wanting: Mapping[str, int] = field(default_factory=dict)
    prunable: bool = True


def source(path: Path, *, follow_symlinks: bool = False) -> Source:
    """Chooses the reader for a path.

    Args:
        path: The file or folder to read, which may itself be a link.
        follow_symlinks: Whether links in a folder are followed too, to wherever they lead.

    Raises:
        CallError: If it is nothing that can be read.
    """
    if path.is_dir():
        corpus = path / "corpus.jsonl"
        if not corpus.is_file():
            return _files(path, follow_symlinks)
        if corpus.is_symlink() and not follow_symlinks:
            msg = f"{corpus} is a symbolic link; say --follow-symlinks, or name the file that it leads to"
            raise CallError(msg)
        return _json_lines(corpus)
    if not path.exists():
        msg = f"there is no file or folder {path}"
        raise CallError(msg)
    if not path.is_file():
        msg = f"{path} is a pipe or a device; write what comes from it to a file"
        raise CallError(msg)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if suffix in (".csv", ".tsv"):
        rows = tables.reader(path)
        return Source(lambda: _distinct(rows()), lambda: sum(1 for _ in rows()))
    if suffix in loaders.SUFFIXES:
        if not loaders.installed(suffix):
            msg = f'{path} needs a package that is not installed; pip install "m3plugins[loaders]"'
            raise CallError(msg)
        return Source(lambda: iter([_load(path, path.parent)]), lambda: 1, prunable=False)
    msg = (
        f"{path} must be a BEIR folder, a folder of files, or end in .jsonl, .ndjson, .csv, .tsv, "
        f"{', '.join(loaders.SUFFIXES)}"
    )
    raise CallError(msg)


def counted(endings: Mapping[str, int]) -> str:
    """Counts the files of each ending, most first.

    Example:
        >>> counted({".pdf": 3, ".png": 7})
        '7 .png, 3 .pdf'
    """
    return ", ".join(f"{n} {ending}" for ending, n in sorted(endings.items(), key=lambda item: (-item[1], item[0])))


def _json_lines(path: Path) -> Source:
    return Source(lambda: _distinct(read_places(path)), lambda: _count_lines(path))


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _distinct(items: Iterable[tuple[str, Item]]) -> Iterator[Item]:
    """Yields documents with their places, and rejects those of an id that came before."""
    with Seen() as seen:
        for place, item in items:
            if isinstance(item, Document) and (before := seen.add(item.id, place)) is not None:
                yield Rejected(place, f"the id {item.id!r} is at {before} already; give each document an id of its own")
            else:
                yield item


def _files(folder: Path, follow_symlinks: bool) -> Source:
    found = _Listing.of(folder, follow_symlinks)
    if not found.files and not found.faults:
        msg = f"{folder} has no corpus.jsonl and no text files ({', '.join(loaders.SUFFIXES)})"
        msg += f'; {counted(found.wanting)} need pip install "m3plugins[loaders]"' if found.wanting else ""
        msg += "; symbolic links are followed by --follow-symlinks" if found.skipped[_LINK] else ""
        raise CallError(msg)

    def read() -> Iterator[Item]:
        yield from found.faults
        yield from (_load(file, folder) for file in found.files)

    count = len(found.faults) + len(found.files)
    return Source(read, lambda: count, str(folder.resolve()), +found.skipped, +found.wanting)


@dataclass(frozen=True)
class _Listing:
    """The files in a folder and below that are not hidden.

    Attributes:
        files: Files that can be read, in order.
        faults: Folders that cannot be read.
        skipped: Other files, by ending.
        wanting: Skipped files that need the extra `loaders`, by ending.
    """

    files: list[Path] = field(default_factory=list)
    faults: list[Rejected] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    wanting: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, folder: Path, follow_symlinks: bool) -> _Listing:
        found = cls()
        readable = {suffix for suffix in loaders.SUFFIXES if loaders.installed(suffix)}
        starts, seen = [folder], set()
        for start in starts:  # which grows by the links that are found, after what has a place of its own
            for parent, folders, names in os.walk(start, onerror=found._fail):
                place = os.path.realpath(parent)
                if place in seen:
                    folders.clear()
                    continue
                seen.add(place)
                folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
                for name in sorted(names) + folders:
                    path = Path(parent, name)
                    if path.is_symlink() and not follow_symlinks:
                        found.skipped[_LINK] += not name.startswith(".")
                    elif name in folders:
                        starts += [path] if path.is_symlink() else []
                    elif not name.startswith("."):
                        found._add(path, readable)
        found.files.sort()
        return found

    def _add(self, file: Path, readable: Set[str]) -> None:
        suffix = file.suffix.lower()
        if suffix in readable:
            self.files.append(file)
        else:
            self.skipped[suffix or "without ending"] += 1
            self.wanting[suffix] += suffix in loaders.SUFFIXES

    def _fail(self, err: OSError) -> None:
        self.faults.append(Rejected(str(err.filename), f"the folder cannot be read: {err.strerror}"))


def _load(file: Path, folder: Path) -> Item:
    """Loads the document of a file; its id is the path within the folder."""
    place, path = str(file), file.relative_to(folder)
    try:
        page = loaders.load(file)
    except OSError as err:
        return Rejected(place, f"cannot be read: {err.strerror}")
    except (ValueError, RecursionError, MemoryError) as err:
        return Rejected(place, str(err) or f"cannot be read: {type(err).__name__}")
    metadata = {"path": path.as_posix(), "folder": path.parent.as_posix(), "source": str(folder.resolve())}
    if page.title:
        metadata["title"] = page.title
    document = Document(id=path.as_posix(), text=page.text, title=page.title, metadata=metadata, headings=page.headings)
    try:
        document.check()
    except ValueError as err:
        return Rejected(place, str(err))
    return document
