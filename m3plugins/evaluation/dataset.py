"""A test collection in the BEIR layout: a corpus, queries, and judgements of relevance (qrels)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from m3plugins.encoding.text import check_unicode
from m3plugins.indexing.corpus import Rejected, read_corpus, read_jsonl
from m3plugins.indexing.document import Document

_SCORE_BITS = 31
"""Bits of the integers that measures compute with."""


class DatasetError(ValueError):
    """A file of the collection does not hold what it should; the message says which line."""


@dataclass(frozen=True)
class Dataset:
    """The judged queries of one split; the corpus stays on disk.

    Attributes:
        folder: Holds `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.
        split: Name of the judgements.
        queries: Text by query id, of the queries that are judged.
        qrels: Relevance by document id (0: judged and not relevant), by query id.
    """

    folder: Path
    split: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    @classmethod
    def load(cls, folder: str | Path, split: str = "test") -> Dataset:
        """Reads the queries and the judgements of a split.

        Raises:
            FileNotFoundError: If a file is missing.
            DatasetError: If a line is malformed, or a judged query has no text.
        """
        folder = Path(folder)
        judgements = folder / "qrels" / f"{split}.tsv"
        for path in (folder / "corpus.jsonl", folder / "queries.jsonl", judgements):
            if not path.is_file():
                splits = ", ".join(sorted(file.stem for file in folder.glob("qrels/*.tsv"))) or "none"
                msg = f"a BEIR collection needs {path}, which is not there; the splits of {folder} are: {splits}"
                raise FileNotFoundError(msg)
        qrels = _read_qrels(judgements)
        texts = _read_queries(folder / "queries.jsonl")
        if missing := [query_id for query_id in qrels if query_id not in texts]:
            msg = f"{judgements} judges {len(missing)} queries that queries.jsonl lacks, such as {missing[0]!r}"
            raise DatasetError(msg)
        return cls(folder, split, {query_id: texts[query_id] for query_id in qrels}, qrels)

    def documents(self) -> Iterator[Document]:
        """Reads the corpus as a stream.

        Raises:
            DatasetError: At a line that holds no document.
        """
        for document in read_corpus(self.folder / "corpus.jsonl"):
            if isinstance(document, Rejected):
                raise _error(document)
            yield document


def _read_queries(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, row in read_jsonl(path):
        if isinstance(row, Rejected):
            raise _error(row)
        query_id, text = row.get("_id", row.get("id")), row.get("text")
        place = f"{path}:{number}"
        if not isinstance(query_id, str) or not isinstance(text, str):
            raise _error(Rejected(place, "a query needs the strings _id and text"))
        try:
            check_unicode("_id", query_id)
            check_unicode("text", text)
        except ValueError as err:
            raise _error(Rejected(place, str(err))) from err
        if texts.setdefault(query_id, text) != text:
            raise _error(Rejected(place, f"the query {query_id!r} is there already, with another text; keep one"))
    return texts


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            row = line.rstrip("\n").split("\t")
            if not line.strip() or (number == 1 and row[0] == "query-id"):
                continue
            place = f"{path}:{number}"
            try:
                query_id, document_id, relevance = row
                score = int(relevance)
                line.encode()
                if score.bit_length() > _SCORE_BITS:
                    raise ValueError
            except ValueError as err:
                reason = "a judgement is query-id, corpus-id and an integer score in UTF-8, with tabs between, got "
                raise _error(Rejected(place, f"{reason}{row}")) from err
            if qrels.setdefault(query_id, {}).setdefault(document_id, score) != score:
                reason = f"{document_id!r} is judged for {query_id!r} already, with another score; keep one"
                raise _error(Rejected(place, reason))
    if not qrels:
        raise _error(Rejected(str(path), "no judgement in it"))
    return qrels


def _error(rejected: Rejected) -> DatasetError:
    return DatasetError(f"{rejected.place}: {rejected.reason}")
