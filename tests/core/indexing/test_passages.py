"""Documents stored as passages: whole, without leftovers, and found by their best passage."""

import pytest

from m3plugins import Document, HybridRetriever, HybridWeights, InMemoryHybridIndex
from m3plugins.encoding import Passages
from m3plugins.indexing import Heading
from m3plugins.indexing import in_memory as memory
from m3plugins.indexing.passages import split
from m3plugins.reranking import M3Reranker
from tests.tiny import SENTENCES

LONG = " ".join(SENTENCES[:4])
CUT = Passages(size=40, overlap=8)


@pytest.fixture
def index(encoder):
    return InMemoryHybridIndex(encoder=encoder, passages=CUT)


def texts(index, parent):
    found = {d.id: d for d in index.scan() if d.parent_id == parent}
    return [found[f"{parent}#{n}"].text for n in range(len(found))]


def test_a_document_is_stored_as_its_passages(index, encoder):
    document = Document(id="a", text=LONG, title="Fox", metadata={"n": 1})
    report = index.upsert([document])
    assert (report.written, report.failed) == (1, [])
    assert texts(index, "a") == CUT.split(LONG, encoder)
    assert index.count() > 1
    for passage in index.scan():
        assert (passage.title, passage.metadata, passage.parent_id) == ("Fox", {"n": 1}, "a")


def under_headings(*sections, **fields):
    """A document of sections, each a heading's line and a body."""
    text, headings = "", []
    for title, body in sections:
        headings.append(Heading(len(text), len(text) + len(title), title))
        text += f"{title}\n{body}\n"
    return Document(id="a", text=text, headings=tuple(headings), **fields)


def test_a_passage_has_the_heading_above_it_in_title_and_metadata(index):
    document = under_headings(
        ("Guide", ""), ("Foxes", "They run by the river."), ("Dogs", LONG), title="Animals", metadata={"n": 1}
    )
    index.upsert([document])
    found = {d.id: d for d in index.scan()}
    first, *others = [found[f"a#{n}"] for n in range(len(found))]
    assert (first.title, first.metadata) == ("Animals: Foxes", {"n": 1, "heading": "Foxes"})
    assert first.text.startswith("Guide") and len(others) > 1
    assert {(d.title, d.metadata["heading"]) for d in others} == {("Animals: Dogs", "Dogs")}


def test_a_heading_of_the_callers_own_stays_and_one_like_the_title_is_not_said_twice(index):
    index.upsert([under_headings(("Foxes", SENTENCES[0]), title="Foxes", metadata={"heading": "mine"})])
    assert {(d.title, d.metadata["heading"]) for d in index.scan()} == {("Foxes", "mine")}


def test_text_above_the_first_heading_is_under_none(index):
    document = Document(
        id="a", text=f"{LONG}\nFoxes\n{LONG}", headings=(Heading(len(LONG) + 1, len(LONG) + 6, "Foxes"),)
    )
    index.upsert([document])
    headings = [d.metadata.get("heading") for d in sorted(index.scan(), key=lambda d: int(d.id[2:]))]
    assert headings[0] is None and headings[-1] == "Foxes"
    assert headings == sorted(headings, key=lambda heading: heading is not None)


@pytest.mark.parametrize("headings", [[(0, 9)], [(3, 2)], [(-1, 2)], [(4, 5), (0, 1)]])
def test_headings_that_are_not_in_the_text_fail_the_document(index, headings):
    document = Document(id="a", text="a text", headings=tuple(Heading(start, end, "a") for start, end in headings))
    (failure,) = index.upsert([document]).failed
    assert failure.id == "a" and "headings must be in the text and in order" in failure.reason


def test_headings_are_not_stored(encoder):
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert([under_headings(("Foxes", LONG))])
    assert index.get(["a"])[0].headings == () and index.get(["a"])[0].metadata == {}


def test_what_is_there_already_is_not_encoded_again(index):
    documents = [Document(id="a", text=LONG), Document(id="b", text="short")]
    index.upsert(documents)
    report = index.upsert(documents)
    assert (report.written, report.unchanged) == (0, 2)


@pytest.mark.parametrize("text", ["short", LONG + " " + LONG, SENTENCES[5] + LONG, ""])
def test_new_text_leaves_no_passage_of_the_old(index, encoder, text):
    index.upsert([Document(id="a", text=LONG), Document(id="b", text="short")])
    assert index.upsert([Document(id="a", text=text)]).written == 1
    assert texts(index, "a") == CUT.split(text, encoder)
    assert texts(index, "b") == ["short"]


def test_a_document_is_acknowledged_once_its_passages_are_stored_and_the_old_ones_gone(index, encoder):
    index.upsert([Document(id="a", text=LONG)])
    acknowledged = []

    def on_ack(ids):
        acknowledged.extend(ids)
        assert texts(index, "a") == ["short"]
        assert len(texts(index, "b")) == len(CUT.split(LONG, encoder))

    index.upsert([Document(id="a", text="short"), Document(id="b", text=LONG)], on_ack=on_ack)
    assert sorted(acknowledged) == ["a", "b"]


def test_a_callback_that_raises_loses_no_passage(index, encoder):
    acknowledged = []

    def stop(ids):
        acknowledged.extend(ids)
        raise InterruptedError

    documents = [Document(id="a", text=LONG), Document(id="b", text="short")]
    with pytest.raises(InterruptedError):
        index.upsert(documents, on_ack=stop)
    assert acknowledged and all(texts(index, i) for i in acknowledged)
    index.upsert(documents)
    assert (texts(index, "a"), texts(index, "b")) == (CUT.split(LONG, encoder), ["short"])


def test_of_two_documents_of_one_id_the_later_wins(index):
    index.upsert([Document(id="a", text=LONG), Document(id="a", text="short")])
    assert texts(index, "a") == ["short"]


def test_a_document_fails_as_a_whole_and_keeps_what_it_had(index, monkeypatch):
    index.upsert([Document(id="a", text="old")])
    check = memory._Store.check

    def refuse(self, document):
        check(self, document)
        if document.id == "a#1":
            raise ValueError("no room")

    monkeypatch.setattr(memory._Store, "check", refuse)
    report = index.upsert([Document(id="a", text=LONG), Document(id="b", text="short")])
    assert (report.written, report.failed) == (1, [("a", "no room")])
    assert texts(index, "a") == ["old"]


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("the tokenizer failed")])
def test_a_document_that_cannot_be_cut_fails_alone(index, monkeypatch, error):
    spans = Passages.spans

    def short_of_memory(self, text, *rest):
        if text == "huge":
            raise error
        return spans(self, text, *rest)

    monkeypatch.setattr(Passages, "spans", short_of_memory)
    report = index.upsert([Document(id="a", text=LONG), Document(id="b", text="huge"), Document(id="c", text="a fox")])
    assert report.written == 2
    assert report.failed == [("b", f"the tokenizer fails at it: {type(error).__name__}: {error}")]


def test_passages_are_made_when_they_are_asked_for(encoder):
    pieces = split(Document(id="a", text=LONG), CUT, encoder)
    assert pieces[0] is not pieces[0]
    assert [piece.id for piece in pieces] == [f"a#{n}" for n in range(len(pieces))]
    assert list(pieces)[1:] == pieces[1:]


def test_parents_and_embeddings_of_the_callers_are_refused(index, encoder):
    report = index.upsert([Document(id="a", text="x", parent_id="p")])
    assert report.failed[0].id == "a" and "parent_id must be None" in report.failed[0].reason
    with pytest.raises(ValueError, match="leave embeddings out"):
        index.upsert([Document(id="a", text="x")], embeddings=encoder.encode_documents(["x"]))


def test_documents_are_deleted_and_annotated_by_their_own_ids(index):
    index.upsert([Document(id="a", text=LONG), Document(id="a#0", text=LONG), Document(id="b", text="short")])
    passages = len(texts(index, "a"))
    report = index.update_metadata({"a": {"n": 2}, "nobody": {}})
    assert (report.written, [failure.id for failure in report.failed]) == (1, ["nobody"])
    assert {d.parent_id for d in index.scan() if d.metadata} == {"a"}
    assert index.delete(["a#0"]) == passages
    assert len(texts(index, "a")) == passages
    assert index.delete(parent_id="a") == passages
    assert [d.id for d in index.scan()] == ["b#0"]


@pytest.fixture
def families(encoder):
    """Many passages of few parents, and a document without one."""
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert(
        [
            *(
                Document(id=f"p{n}-{m}", text=f"fox {n} {SENTENCES[m]}", parent_id=f"p{n}")
                for n in range(3)
                for m in range(9)
            ),
            Document(id="p0", text="a river"),
        ]
    )
    return index


@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
@pytest.mark.parametrize("per_parent", [1, 2])
def test_the_best_passages_of_each_parent_are_returned(families, per_parent, fusion):
    """However few candidates were asked for at first."""
    everything = HybridRetriever(families, fusion=fusion).search("fox", k=100)
    taken, expected = {}, []
    for hit in everything:
        family = hit.document.parent_id or hit.id + " itself"
        taken[family] = taken.get(family, 0) + 1
        if taken[family] <= per_parent:
            expected.append(hit)
    assert len(expected) == 3 * per_parent + 1
    narrow = HybridRetriever(families, fusion=fusion, candidates=2, multi_vector_depth=2)
    hits = narrow.search("fox", k=10, per_parent=per_parent)
    assert {hit.id for hit in hits} == {hit.id for hit in expected}
    if fusion == "weighted":
        assert [hit.id for hit in hits] == [hit.id for hit in expected]


def test_offset_gives_the_next_page(families):
    retriever = HybridRetriever(families)
    whole = retriever.search("fox", k=20)
    pages = [retriever.search("fox", k=5, offset=start) for start in range(0, 20, 5)]
    assert [hit for page in pages for hit in page] == whole
    assert retriever.search("fox", k=5, offset=28) == []
    grouped = retriever.search("fox", k=4, per_parent=1)
    assert retriever.search("fox", k=2, offset=2, per_parent=1) == grouped[2:]


def test_pages_of_reranked_hits_end_where_reranking_does(families, encoder):
    retriever = HybridRetriever(families, reranker=M3Reranker(encoder), rerank_depth=6)
    pages = [retriever.search("fox", k=3, offset=start) for start in (0, 3)]
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in retriever.search("fox", k=6)]
    with pytest.raises(ValueError, match="end at rerank_depth=6, got offset .* = 9; raise it"):
        retriever.search("fox", k=3, offset=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"offset": -1}, "offset must be an integer >= 0"), ({"per_parent": 0}, "per_parent must be a positive integer")],
)
def test_bad_options_are_refused(families, options, message):
    with pytest.raises(ValueError, match=message):
        HybridRetriever(families).search("fox", **options)


def test_the_memory_index_has_no_bm25(families):
    with pytest.raises(ValueError, match="no BM25; leave the weight of bm25 at 0"):
        HybridRetriever(families, weights=HybridWeights(bm25=1)).search("fox")
