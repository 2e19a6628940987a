"""What every framework's store and retriever must do, over every engine: the same tests for all of them."""

from __future__ import annotations

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from m3plugins import Document, HybridIndex, HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding.loaded import LoadedModel
from m3plugins.indexing.filters import Filter
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusHybridIndex
from tests.tiny import SENTENCES


@dataclass(frozen=True)
class Entry:
    """A document, whatever the framework calls it."""

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A document found, as the framework gives it."""

    entry: Entry
    score: object
    scores: Mapping[str, object]


class Adapter(ABC):
    """A framework's store and retriever over one index."""

    @abstractmethod
    def __init__(self, retriever: HybridRetriever) -> None: ...

    @abstractmethod
    def add(self, entries: Sequence[Entry]) -> list[str]:
        """Stores entries; returns their ids."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None: ...

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[Entry]: ...

    @abstractmethod
    def search(self, query: str, k: int, filter: Filter | None = None) -> list[Found]: ...

    @abstractmethod
    async def asearch(self, query: str, k: int, filter: Filter | None = None) -> list[Found]: ...


ENTRIES = [Entry(f"s{n}", text, {"number": n, "tags": ["a", "b"][: n % 3]}) for n, text in enumerate(SENTENCES)]
QUERIES = ["a fox at the river", "ein Hund", "狐狸", "passages that answer", ""]
ENGINES = ["memory", "milvus", "elasticsearch"]


def make_index(engine: str, encoder: M3Encoder, request: pytest.FixtureRequest) -> HybridIndex:
    """An empty index of the engine, for one test; no other engine is started."""
    if engine == "memory":
        return InMemoryHybridIndex(encoder=encoder)
    if engine == "milvus":
        uri = request.getfixturevalue("tmp_path") / "m3.db"
        return MilvusHybridIndex.create("docs", encoder=encoder, uri=uri)
    package = pytest.importorskip("m3plugins_elasticsearch")
    name, url = request.getfixturevalue("es_name"), request.getfixturevalue("es_url")
    return package.ElasticsearchHybridIndex.create(name, encoder=encoder, uri=url)


ODD_METADATA: list[dict[str, Any]] = [
    {"m3": {"score": 99.0, "dense": 1.0}},
    {"m3": "text"},
    {"m3": None},
    {"_node": "{", "_node_id": "s0", "_ref_doc_id": "s0"},
    {"_node": {"__type__": "1"}},
    {"_node_content": "{", "_node_type": "TextNode", "document_id": "s0", "doc_id": "s0", "ref_doc_id": "s0"},
    {"id": "s0", "id_": "s0", "_id": "s0", "pk": 1, "text": "x", "page_content": "x", "vector": [1.0]},
    {"title": 3, "parent_id": {"a": 1}, "metadata": None, "score": "x", "relevance_score": "x"},
    {"big": 2**63, "small": -(2**63), "tiny": 5e-324, "nested": {"a": [{"b": [None, True]}]}, "": "", "a.b": 1},
]
ODD_IDS = ["a/b", 'a"b', "a'b\\", " ", "a\nb", "%s {0} ${x}", "狐\U0001f98a", "*", "a,b]", "../a"]


class AdapterContract:
    """Subclasses name the adapter: `adapter_class = LangChain`."""

    adapter_class: type[Adapter]

    @pytest.fixture(params=ENGINES)
    def index(self, request: pytest.FixtureRequest, encoder: M3Encoder) -> Iterator[HybridIndex]:
        with make_index(request.param, encoder, request) as index:
            yield index

    @pytest.fixture
    def core(self, index: HybridIndex) -> HybridRetriever:
        return HybridRetriever(index)

    @pytest.fixture
    def empty(self, core: HybridRetriever) -> Adapter:
        return self.adapter_class(core)

    @pytest.fixture
    def filled(self, empty: Adapter) -> Adapter:
        assert empty.add(ENTRIES) == [entry.id for entry in ENTRIES]
        return empty

    def test_an_empty_store_finds_nothing(self, empty: Adapter) -> None:
        assert empty.search("a fox", 3) == []
        assert empty.get(["s0"]) == []

    def test_documents_come_back_as_they_were_added(self, filled: Adapter) -> None:
        assert filled.get([entry.id for entry in ENTRIES]) == ENTRIES

    def test_unknown_ids_are_left_out_and_order_is_kept(self, filled: Adapter) -> None:
        assert [entry.id for entry in filled.get(["s3", "nobody", "s1"])] == ["s3", "s1"]

    def test_answers_are_those_of_the_core(self, filled: Adapter, core: HybridRetriever) -> None:
        for query in QUERIES:
            found, hits = filled.search(query, 5), core.search(query, 5)
            assert [one.entry.id for one in found] == [hit.id for hit in hits]
            assert [one.score for one in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)
            for one, hit in zip(found, hits, strict=True):
                expected = {"dense": hit.scores.dense, "sparse": hit.scores.sparse}
                expected |= {"multi_vector": hit.scores.multi_vector, "score": hit.score}
                assert dict(one.scores) == pytest.approx(expected, abs=1e-6)

    def test_scores_are_plain_floats(self, filled: Adapter) -> None:
        (found,) = filled.search("a fox", 1)
        assert type(found.score) is float
        assert {type(score) for score in found.scores.values()} == {float}

    async def test_async_answers_are_the_same(self, filled: Adapter) -> None:
        for query in QUERIES:
            assert await filled.asearch(query, 4) == filled.search(query, 4)

    async def test_many_at_once_answer_as_one_after_the_other(self, filled: Adapter) -> None:
        queries = [QUERIES[n % len(QUERIES)] for n in range(50)]
        together = await asyncio.gather(*(filled.asearch(query, 3) for query in queries))
        assert list(together) == [filled.search(query, 3) for query in queries]

    def test_k_is_honoured(self, filled: Adapter) -> None:
        assert [len(filled.search("a fox", k)) for k in (1, 3, 100)] == [1, 3, len(ENTRIES)]

    def test_k_must_be_positive(self, filled: Adapter) -> None:
        with pytest.raises(ValueError, match="positive"):
            filled.search("a fox", 0)

    @pytest.mark.parametrize(
        "wanted",
        [
            filters.eq("number", 3),
            filters.in_("number", [1, 2]),
            filters.and_(filters.gte("number", 4), filters.lt("number", 6)),
            filters.or_(filters.eq("tags", "b"), filters.eq("number", 0)),
            filters.not_(filters.eq("tags", "a")),
        ],
        ids=str,
    )
    def test_filters_mean_what_they_mean_in_the_core(self, filled: Adapter, wanted: Filter) -> None:
        expected = {entry.id for entry in ENTRIES if filters.matches(wanted, entry.metadata)}
        assert {one.entry.id for one in filled.search("a fox", 100, wanted)} == expected
        assert expected

    def test_adding_again_changes_nothing(self, filled: Adapter, index: HybridIndex) -> None:
        filled.add(ENTRIES)
        assert index.count() == len(ENTRIES)
        assert filled.get(["s0"]) == [ENTRIES[0]]

    def test_a_known_id_replaces(self, filled: Adapter, index: HybridIndex) -> None:
        replacement = Entry("s0", "Nothing about animals.", {"number": 99})
        filled.add([replacement])
        assert filled.get(["s0"]) == [replacement]
        assert index.count() == len(ENTRIES)

    def test_deleting(self, filled: Adapter, index: HybridIndex) -> None:
        filled.delete(["s0", "s1", "nobody"])
        assert filled.get(["s0", "s1"]) == []
        assert index.count() == len(ENTRIES) - 2
        assert not {"s0", "s1"} & {one.entry.id for one in filled.search("a fox", 100)}

    def test_what_is_given_and_what_is_stored_are_apart(self, filled: Adapter) -> None:
        metadata: dict[str, Any] = {"tags": ["x"], "nested": {"deep": [1]}}
        filled.add([Entry("own", "A text of its own.", metadata)])
        before = copy.deepcopy(metadata)
        metadata["nested"]["deep"].append(2)
        (stored,) = filled.get(["own"])
        stored.metadata["tags"].append("y")
        assert filled.get(["own"]) == [Entry("own", "A text of its own.", before)]

    @pytest.mark.parametrize("text", ["", "  ", "\x00", "naïve\n\ncafé 🦊", "word " * 9000], ids=repr)
    def test_any_text_is_kept_to_the_letter(self, empty: Adapter, text: str) -> None:
        empty.add([Entry("odd", text)])
        assert [entry.text for entry in empty.get(["odd"])] == [text]
        assert [one.entry.text for one in empty.search("café", 1)] == [text]

    def test_no_document_keeps_a_reader_from_the_others_or_passes_for_another(
        self, empty: Adapter, index: HybridIndex
    ) -> None:
        documents = [Document(id=f"odd-{n}", text="a fox", metadata=given) for n, given in enumerate(ODD_METADATA)]
        documents += [Document(id=i, text=f"a fox {n}", parent_id="s0") for n, i in enumerate(ODD_IDS)]
        index.upsert(documents).raise_for_failed()
        ids = [document.id for document in documents]
        assert [entry.id for entry in empty.get(ids)] == ids
        found = empty.search("a fox", 100)
        assert sorted(one.entry.id for one in found) == sorted(ids)
        assert all(one.scores["score"] == one.score < 10 for one in found)

    def test_one_failure_is_named_and_the_others_are_stored(self, empty: Adapter, index: HybridIndex) -> None:
        with pytest.raises(ValueError, match=r"1 documents were not stored, 2 were: 'bad'"):
            empty.add([ENTRIES[0], Entry("bad", "text", {"x": float("nan")}), ENTRIES[1]])
        assert index.count() == 2

    def test_a_closed_index_says_so(self, filled: Adapter, index: HybridIndex) -> None:
        index.close()
        with pytest.raises(ValueError, match="closed"):
            filled.search("a fox", 1)
        with pytest.raises(ValueError, match="closed"):
            filled.add(ENTRIES)

    def test_a_text_goes_through_the_model_once(
        self, empty: Adapter, encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder.memo.clear()
        read: list[tuple[int, ...]] = []
        encode = LoadedModel.encode

        def counted(self: LoadedModel, window: Any, *arguments: Any) -> Any:
            read.extend(tuple(text.ids.tolist()) for text in window)
            return encode(self, window, *arguments)

        monkeypatch.setattr(LoadedModel, "encode", counted)
        empty.add(ENTRIES)
        for _ in range(2):
            empty.search("a fox at the river", 3)
        assert len(read) == len(set(read)) == len(ENTRIES) + 1
