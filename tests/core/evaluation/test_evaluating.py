"""The five rows are what `HybridRetriever` would find, from one encoding of the queries."""

from __future__ import annotations

import json
import random

import pytest

from m3plugins import Document, HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.evaluation import ROWS, Dataset, evaluate, rank_rows
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
