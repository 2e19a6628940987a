"""Removes from an index the documents that their source no longer has."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from m3plugins.cli.errors import CallError
from m3plugins.cli.inputs import Source, counted
from m3plugins.cli.seen import Seen
from m3plugins.indexing.document import Document
from m3plugins.indexing.index import HybridIndex
from m3plugins.retrieval import filters

_BATCH = 256


def check_prunable(path: Path, source: Source) -> None:
    """Refuses, before any work, what cannot tell which documents are gone.

    Raises:
        CallError: If the source is one file of text, or some of its files need the extra `loaders`.
    """
    if source.wanting:
        msg = f'--prune must read all of {path}; {counted(source.wanting)} need pip install "m3plugins[loaders]"'
        raise CallError(msg)
    if not source.prunable:
        msg = f"--prune takes a folder, .jsonl or .csv, of which documents can be gone; {path} is one document"
        raise CallError(msg)


def prune(index: HybridIndex, seen: Seen, folder: str) -> int:
    """Removes the documents that the source put into the index and has no more.

    Args:
        index: The index.
        seen: The ids of all that the source has now.
        folder: The "source" of its documents; "" if it is a corpus, which the index is made of but for folders.

    Returns:
        The number of documents that were removed.
    """
    ours = filters.eq("source", folder) if folder else None
    with Seen() as gone:
        for stored in index.scan(ours):
            owner = stored.parent_id if index.passages is not None and stored.parent_id is not None else stored.id
            if owner not in seen and (folder or not _is_file(stored, owner)):
                gone.add(owner)
        ids = iter(gone)
        while batch := list(islice(ids, _BATCH)):
            index.delete(batch)
        return len(gone)


def _is_file(stored: Document, owner: str) -> bool:
    """Tells whether a folder's file put the document there."""
    return stored.metadata.get("path") == owner and {"folder", "source"} <= stored.metadata.keys()
