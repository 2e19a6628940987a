"""Errors of an index that cannot be made, opened or read."""

from __future__ import annotations

from collections.abc import Sequence

from m3plugins.indexing.report import FailedDocument, first_few


class ModelMismatchError(ValueError):
    """The index holds vectors of another model than the encoder's."""


class IndexNotFoundError(ValueError):
    """There is no index of that name, or none of ours."""


class IndexExistsError(ValueError):
    """There is something of that name already."""


class BrokenDocumentsError(RuntimeError):
    """Some documents cannot be read as they were stored; a scan raises it when it has given all the others.

    Attributes:
        failed: Each of them, with the reason.
    """

    def __init__(self, failed: Sequence[FailedDocument]) -> None:
        super().__init__(f"{len(failed)} documents cannot be read: {first_few(failed)}")
        self.failed = list(failed)
