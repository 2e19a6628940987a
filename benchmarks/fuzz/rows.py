"""Fuzzing of stored rows: a damaged document harms no other, is named by what refuses it, and heals.

It heals once it is written again, wherever a write reads what is damaged, and always by what the error advises.
"""

from __future__ import annotations

import ast
import logging
import math
import re
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from llama_index.retrievers.m3plugins import M3Retriever as LlamaIndexRetriever

from benchmarks.fixtures import SENTENCES, save_checkpoint
from benchmarks.fuzz import codecs
from benchmarks.fuzz.children import limit_memory
from benchmarks.fuzz.edits import Case, Edit, splices, tree_edits
from benchmarks.fuzz.failures import failure, refused, require, site
from benchmarks.fuzz.stored import Refused, Stored, edited, engines
from langchain_m3plugins import M3Retriever as LangChainRetriever
from m3plugins import Document, HybridIndex, HybridRetriever, M3Encoder, M3Output
from m3plugins.indexing.report import FailedDocument
from m3plugins_elasticsearch import ElasticsearchIndexError
from m3plugins_milvus import MilvusIndexError

Result = TypeVar("Result")

VICTIM = Document(
    id="victim", text=SENTENCES[0], title="Fox", metadata={"lang": "en", "year": 2020, "tags": ["a"]}, parent_id="p"
)
OTHERS = [Document(id=f"other-{n}", text=text, metadata={"lang": "de"}) for n, text in enumerate(SENTENCES[1:4])]
SECONDS = 20.0
MEMORY = 1 << 30
QUERY = "a fox jumps over a dog"

_FORGED = '{"__type__": "1", "__data__": {"id_": "other-0", "text": "forged", "class_name": "TextNode"}}'
LIKELY: dict[str, dict[str, Sequence[Any]]] = {
    "metadata": {
        "m3": [{}, {"score": 9.0}, "x"],
        "_node": [_FORGED, "{", "null", '{"__type__": "2", "__data__": {}}'],
        "_node_id": ["other-0"],
        "_ref_doc_id": ["other-0"],
        "title": [1],
    },
    "id": {"": ["other-0", "stranger"]},
    "key": {"": ["0" * 32]},
    "vector_blocks": {"": [0, 2, 10**6]},
    "text_blocks": {"": [1, 10**6]},
}
"""Values that might mean something, see `tree_edits`, by field; under "" those of the field itself."""

_DOCUMENTED = (ValueError, MilvusIndexError, ElasticsearchIndexError)


class Rows:
    """Edits of one of four documents in each engine, and of the bytes of the codecs.

    Args:
        stored: The engines, by name; each holds `VICTIM` and `OTHERS`.
    """

    name = "rows"

    def __init__(self, stored: dict[str, Stored]) -> None:
        self._stored = stored
        self._sound = {name: _Readings(one.index, []) for name, one in stored.items()}
        of_engines = [st.lists(_edits(name, one), min_size=1, max_size=2) for name, one in stored.items()]
        self.cases = st.one_of(*3 * of_engines, st.lists(codecs.edits(), min_size=1, max_size=1)).map(tuple)

    def check(self, case: Case) -> str | None:
        """Writes the row, reads everything, then writes the document again."""
        name = case[0].place.partition("/")[0]
        if name == codecs.PLACE:
            return codecs.check(case[0])
        stored = self._stored[name]
        row = stored.row
        for edit in case:
            row = edited(row, edit)
        try:
            stored.write(row)
            with _limited():
                return self._judged(stored, self._sound[name], case)
        except Refused:
            return f"refused by {name} itself"
        finally:
            stored.restore()

    def _judged(self, stored: Stored, sound: _Readings, case: Case) -> str | None:
        index = stored.index
        own = stored.row.get("key", VICTIM.id)  # all that names a row whose id is damaged
        names = [VICTIM.id, own, *(str(edit.value) for edit in case if edit.place.endswith(("/id", "/key")))]
        damaged = _Readings(index, names)
        damaged.compare(sound)
        fields = ", ".join(sorted({edit.place for edit in case}))
        with _promised(f"writing beside a damaged row ({fields})"):
            require(index.upsert([Document(id="new", text="new")]).written == 1, "a document that cannot be written")
            require(index.delete(["new"]) == 1, "a document that cannot be deleted")
        with _promised(f"writing a damaged row again ({fields})"):
            report = index.upsert([VICTIM])
            require(not report.failed, f"a row that does not heal ({fields})", report)
        healed = _Readings(index, names)
        if healed.whole(sound):
            return None
        if not damaged.refusals:
            return "damage that no read sees and that counts as unchanged"
        unread = {edit.place.partition("/")[2] for edit in case} & {*stored.unread}
        require(unread, f"a refused row that does not heal ({fields})", healed.refusals)
        with _promised(f"what an error advises ({fields})"):
            _follow(healed.broken, index)
        advised = _Readings(index, names)
        require(advised.whole(sound), f"a row that does not heal as its error says ({fields})", advised.refusals)
        return "damage that an upsert does not read and that heals as its error says"


def _edits(name: str, stored: Stored) -> st.SearchStrategy[Edit]:
    ways: list[st.SearchStrategy[Edit]] = []
    for field, value in stored.row.items():
        place, likely = f"{name}/{field}", LIKELY.get(field, {})
        ways += [tree_edits(place, value, likely), st.just(Edit(place, "remove"))]
        if values := likely.get(""):
            ways.append(st.sampled_from(values).map(lambda value, place=place: Edit(place, "set", (), value)))
        if isinstance(value, str):
            ways.append(splices(place, len(value)))
        if field in stored.binary:
            size = len(value) // 4 * 3
            ways += 3 * [splices(place, size).map(lambda edit: Edit(edit.place, "base64", edit.at, edit.value))]
    return st.one_of(ways)


_FILTER = re.compile(r"delete\(filter=(.*?)\) and index", re.DOTALL)


def _follow(broken: Sequence[FailedDocument], index: HybridIndex) -> None:
    """Does what the errors advise about documents that cannot be read: deletes them and indexes them again."""
    for i, reason in broken:
        if found := _FILTER.search(reason):
            index.delete(filter=ast.literal_eval(found[1]))
        else:
            index.delete([i])
    index.upsert([VICTIM, *OTHERS]).raise_for_failed()


class _Readings:
    """All that an index answers, checked by itself.

    Args:
        index: The index that is read.
        names: Names of which a refusal must have one; with none, nothing may be refused.
    """

    def __init__(self, index: HybridIndex, names: Sequence[str]) -> None:
        self._names = names
        self.refusals: list[str] = []
        self.broken: list[FailedDocument] = []
        ids = [document.id for document in OTHERS]
        retriever = HybridRetriever(index)
        with _promised("reading sound documents beside a damaged one"):
            require(index.get(ids) == OTHERS, "another document")
            self.embeddings = index.embeddings(ids)
        self.victim = self._read("get", lambda: index.get([VICTIM.id]), [])
        self.vectors = self._read("embeddings", lambda: index.embeddings([VICTIM.id]), {})
        self.scanned = self._read("scan", lambda: list(index.scan()), None)
        self._read("scan", lambda: list(index.scan(with_embeddings=True)), None)
        self._read("count", index.count, None)
        hits = self._read("search", lambda: retriever.search(QUERY, k=10), None)
        self.scores = None if hits is None else {hit.id: hit.score for hit in hits}
        self._check(self.victim)
        for document in self.scanned or ():
            document.check()
        if hits is not None:
            require(len(self.scores or ()) == len(hits), "one document twice", hits)
            require(all(math.isfinite(hit.score) for hit in hits), "a score that is not finite", hits)
            self._frameworks(retriever, [hit.id for hit in hits])

    def _read(self, verb: str, read: Callable[[], Result], otherwise: Result) -> Result:
        try:
            return read()
        except Exception as error:
            refused(error, self._names, _DOCUMENTED)
            self.refusals.append(f"{verb}: {error}")
            self.broken += getattr(error, "failed", [])
            return otherwise

    def _check(self, found: Sequence[Document]) -> None:
        require({document.id for document in found} <= {VICTIM.id}, "another document's id", found)
        for output in self.vectors.values():
            require(_finite(output), "embeddings that are not finite")
        for document in found:
            try:
                document.check()
            except ValueError as error:
                raise failure("a document that is none", error) from error

    def _frameworks(self, retriever: HybridRetriever, ids: Sequence[str]) -> None:
        with _promised("LangChain's retriever"):
            require(len(LangChainRetriever(retriever=retriever, k=10).invoke(QUERY)) == len(ids), "a hit is lost")
        with _promised("LlamaIndex's retriever"):
            nodes = LlamaIndexRetriever(retriever, similarity_top_k=10).retrieve(QUERY)
            found = [node.node.node_id for node in nodes]
            require(found == list(ids), "LlamaIndex's retriever: another document's id", (found, ids))

    def compare(self, sound: _Readings) -> None:
        """Checks what is said of the documents that nobody edited."""
        ids = [document.id for document in OTHERS]
        require(
            all(_same(self.embeddings[i], sound.embeddings[i]) for i in ids), "other embeddings of a sound document"
        )
        if self.scanned is not None:
            found = {document.id: document for document in self.scanned}
            require(len(found) == len(self.scanned), "one document twice", self.scanned)
            require([found.get(document.id) for document in OTHERS] == OTHERS, "scan: another document", self.scanned)
        if self.scores is not None and sound.scores is not None:
            pairs = [(self.scores.get(i), sound.scores[i]) for i in ids]
            same = all(mine is not None and math.isclose(mine, right, abs_tol=1e-4) for mine, right in pairs)
            require(same, "another score of a sound document", pairs)

    def whole(self, sound: _Readings) -> bool:
        """Tells whether all is as it was."""
        return (
            self.victim == [VICTIM]
            and not self.refusals
            and self.scores is not None
            and VICTIM.id in self.vectors
            and _same(self.vectors[VICTIM.id], sound.vectors[VICTIM.id])
        )


@contextmanager
def _limited() -> Iterator[None]:
    """Fails what takes too long; what takes too much memory fails by itself."""

    def over(number: int, frame: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    memory = limit_memory(MEMORY)
    try:
        yield
    except _TooLong as error:
        raise failure(f"a hang in {site(error)}", f"over {SECONDS} s") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _TooLong(BaseException):
    """No `Exception`, which a verb might handle."""


@contextmanager
def _promised(what: str) -> Iterator[None]:
    """Turns any error of what must not fail into a failure."""
    try:
        yield
    except (MemoryError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise failure(f"{what}: {type(error).__name__}", error) from error


def _finite(output: M3Output) -> bool:
    arrays = [output.dense, output.sparse and output.sparse.values, output.multi_vector and output.multi_vector.vectors]
    return all(array is not None and np.isfinite(array).all() for array in arrays)


def _same(one: M3Output, other: M3Output) -> bool:
    assert one.dense is not None and other.dense is not None and one.sparse is not None and other.sparse is not None
    assert one.multi_vector is not None and other.multi_vector is not None
    pairs = [
        (one.dense, other.dense),
        (one.sparse.indices, other.sparse.indices),
        (one.sparse.values, other.sparse.values),
        (one.multi_vector.vectors, other.multi_vector.vectors),
    ]
    return all(mine.shape == right.shape and np.allclose(mine, right, atol=1e-5) for mine, right in pairs)


@contextmanager
def rows(folder: Path) -> Iterator[Rows]:
    """The target, over a Milvus Lite and an Elasticsearch of its own."""
    logging.disable(logging.CRITICAL)  # pymilvus tells each refusal
    encoder = M3Encoder.from_pretrained(save_checkpoint(folder / "model", max_length=256))
    try:
        with engines([VICTIM, *OTHERS], encoder, folder) as stored:
            yield Rows(stored)
    finally:
        logging.disable(logging.NOTSET)
