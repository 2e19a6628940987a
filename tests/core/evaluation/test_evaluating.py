"""The five rows are what `HybridRetriever` would find, from one encoding of the queries."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from m3plugins import Document, HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import Passages
from m3plugins.evaluation import ROWS, Dataset, evaluate, rank_rows
from m3plugins.fusion import best_first
from tests.tiny import SENTENCES


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    choose, words = random.Random(0), " ".join(SENTENCES).split()
    return [Document(id=f"d{i}", text=" ".join(choose.choices(words, k=choose.randint(1, 20)))) for i in range(60)]


@pytest.fixture(scope="module")
def index(encoder: M3Encoder, documents: list[Document]) -> InMemoryHybridIndex:
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert(documents)
    return index


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> Dataset:
    folder = tmp_path_factory.mktemp("collection")
    queries = [{"_id": f"q{i}", "text": document.text} for i, document in enumerate(documents[:20])]
    (folder / "qrels").mkdir()
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": d.id, "text": d.text}) for d in documents))
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(20)))
    return Dataset.load(folder)


@pytest.mark.parametrize(("k", "candidates"), [(5, 5), (5, 12), (100, 60), (20, 4)])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_the_ranking_of_the_retriever_with_its_weights(
    index: InMemoryHybridIndex, row: str, k: int, candidates: int
) -> None:
    for query in SENTENCES[:4]:
        embedded = index.encoder.encode_queries([query])
        retriever = HybridRetriever(index, weights=ROWS[row], candidates=candidates, multi_vector_depth=candidates)
        wanted = [hit.id for hit in retriever.search_embedded(query, embedded, k)]
        assert rank_rows(index, embedded, k=k, candidates=candidates)[row] == wanted


def test_a_query_that_is_a_document_finds_it(index: InMemoryHybridIndex, dataset: Dataset) -> None:
    means = evaluate(index, dataset).means()
    assert list(means) == ["dense", "sparse", "multi-vector", "D+S", "All"]
    assert means["dense"]["nDCG@10"] == means["dense"]["R@100"] == 1


CUT = Passages(size=12, overlap=2)


@pytest.fixture(scope="module")
def passages(encoder: M3Encoder, documents: list[Document]) -> InMemoryHybridIndex:
    index = InMemoryHybridIndex(encoder=encoder, passages=CUT)
    index.upsert(documents)
    assert index.count() > 3 * len(documents)
    return index


@pytest.mark.parametrize(("k", "candidates"), [(5, 5), (40, 12), (100, 400)])
@pytest.mark.parametrize("row", ROWS)
def test_of_passages_a_row_is_the_ranking_of_the_best_passage_of_each_document(
    passages: InMemoryHybridIndex, row: str, k: int, candidates: int
) -> None:
    retriever = HybridRetriever(passages, weights=ROWS[row], candidates=candidates, multi_vector_depth=candidates)
    for query in SENTENCES[:4]:
        embedded = passages.encoder.encode_queries([query])
        found = rank_rows(passages, embedded, k=k, candidates=candidates)[row]
        assert found == [hit.document.parent_id for hit in retriever.search_embedded(query, embedded, k, per_parent=1)]
        assert len(set(found)) == len(found)


def test_a_document_ranks_where_its_best_passage_does(passages: InMemoryHybridIndex) -> None:
    embedded = passages.encoder.encode_queries([SENTENCES[0]])
    scores = passages.score(embedded, [passage.id for passage in passages.scan()])
    best: dict[str, float] = {}
    for passage, score in scores.items():
        parent = passage.rpartition("#")[0]
        best[parent] = max(best.get(parent, -1), score.dense)
    assert rank_rows(passages, embedded, k=60, candidates=passages.count())["dense"] == best_first(best)


def test_passages_are_measured_by_the_ids_of_the_collection(passages: InMemoryHybridIndex, dataset: Dataset) -> None:
    means = evaluate(passages, dataset).means()
    assert means["All"]["R@100"] == 1
    assert means["All"]["nDCG@10"] > 0.5


@pytest.mark.parametrize("k", [1, 3, 60])
def test_documents_with_the_id_of_the_query_are_left_out_as_beir_does(
    index: InMemoryHybridIndex, dataset: Dataset, k: int
) -> None:
    same = replace(dataset, queries={f"d{i}": dataset.queries[f"q{i}"] for i in range(20)})
    same = replace(same, qrels={query_id: {query_id: 1} for query_id in same.queries})
    kept, left_out = (evaluate(index, same, k=k, ignore_identical_ids=choice) for choice in (False, True))
    assert (kept.identical_ids, left_out.identical_ids) == (0, 20)
    longer = evaluate(index, same, k=k + 1, ignore_identical_ids=False)
    for row in ROWS:
        for query_id, ids in left_out.rows[row].run.items():
            assert ids == [i for i in longer.rows[row].run[query_id] if i != query_id][:k]
        assert left_out.means()[row]["nDCG@10"] == 0
    assert kept.means()["dense"]["nDCG@10"] == 1


def test_values_per_query_are_kept(index: InMemoryHybridIndex, dataset: Dataset) -> None:
    row = evaluate(index, dataset, measures=["RR"], k=60).rows["sparse"]
    for query_id, value in row.measurements["RR"].per_query.items():
        relevant = next(iter(dataset.qrels[query_id]))
        assert value == pytest.approx(1 / (1 + list(row.run[query_id]).index(relevant)))


def test_queries_are_encoded_once(
    index: InMemoryHybridIndex, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    encode = M3Encoder.iter_queries
    monkeypatch.setattr(
        M3Encoder, "iter_queries", lambda self, texts: encode(self, (seen.append(t) or t for t in texts))
    )
    evaluate(index, dataset)
    assert seen == list(dataset.queries.values())


def test_an_empty_index_finds_nothing(encoder: M3Encoder, dataset: Dataset) -> None:
    means = evaluate(InMemoryHybridIndex(encoder=encoder), dataset).means()
    assert all(value == 0 for row in means.values() for value in row.values())


@pytest.mark.parametrize("options", [{"k": 0}, {"candidates": -1}])
def test_options_out_of_range_are_refused(
    index: InMemoryHybridIndex, dataset: Dataset, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must be a positive integer"):
        evaluate(index, dataset, **options)
