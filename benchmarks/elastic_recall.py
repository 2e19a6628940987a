"""Recall of Elasticsearch's dense indexes: how much of the exact dense ranking each finds, on real collections.

    M3_TEST_ES_URL=http://localhost:9200 python -m benchmarks.elastic_recall DIR/scifact DIR/cacm

Recall@100: the share of the hundred best documents by whole vectors (numpy) that `candidates` proposes, mean over the
queries, encoded by m3-mini. "plain" is a search as one would write it by hand, k and num_candidates 100. "early" is
the same index once more with `index.dense_vector.hnsw_enable_early_termination`, where the server has that: by default
it is on in 9.5, and off in our indexes.
"""

from __future__ import annotations

import argparse
import time
import uuid
from pathlib import Path

import numpy as np
from elasticsearch import BadRequestError
from rich.console import Console
from rich.table import Table

from benchmarks.fixtures import running
from m3plugins import M3Encoder, M3Output
from m3plugins.evaluation import Dataset
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from m3plugins_elasticsearch.identity import OVERSAMPLE
from m3plugins_elasticsearch.requests import light

K = 100


def plain(index: ElasticsearchHybridIndex, query: M3Output) -> set[str]:
    """The ids that Elasticsearch's own defaults find."""
    knn = {"field": "dense", "query_vector": query.dense[0].tolist(), "k": K, "num_candidates": K}
    answer = index._connection.client.search(index=index.name, body={**light(["id"], K), "knn": knn})
    return {hit["fields"]["id"][0] for hit in answer["hits"]["hits"]}


def measured(index: ElasticsearchHybridIndex, queries: list[M3Output], exact: list[set[str]]) -> tuple[str, ...]:
    """The recall of `candidates`, that of the plain search, and the milliseconds of `candidates`."""
    start = time.perf_counter()
    found = [{hit.id for hit in index.candidates(query, K)["dense"]} for query in queries]
    seconds = time.perf_counter() - start
    by_hand = [plain(index, query) for query in queries]
    recall, bare = (
        np.mean([len(one & best) / K for one, best in zip(some, exact, strict=True)]) for some in (found, by_hand)
    )
    return f"{recall:.4f}", f"{bare:.4f}", f"{seconds / len(queries) * 1e3:.1f}"


def ends_early(index: ElasticsearchHybridIndex) -> bool:
    """Has the graph of an index searched as 9.5 does by default; False if the server does not know of that."""
    setting = {"index.dense_vector.hnsw_enable_early_termination": True}
    try:
        index._connection.client.indices.put_settings(index=index.name, settings=setting)
    except BadRequestError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", type=Path)
    parser.add_argument("--dense-index", nargs="+", choices=OVERSAMPLE, default=list(OVERSAMPLE), metavar="TYPE")
    options = parser.parse_args()
    encoder = M3Encoder.from_pretrained("m3-mini")
    columns = ("recall@100", "plain", "ms a query")
    table = Table("collection", "dense index", *columns, *(f"early: {column}" for column in columns))
    with running() as (url, _):
        for folder in options.collections:
            dataset = Dataset.load(folder, "test")
            documents = list(dataset.documents())
            embedded = list(encoder.iter_documents(document.content for document in documents))
            queries = list(encoder.encode_queries(dataset.queries.values(), heads=["dense"]))
            vectors = np.concatenate([output.dense for output in embedded])
            exact = [{documents[row].id for row in np.argsort(-(vectors @ query.dense[0]))[:K]} for query in queries]
            for kind in options.dense_index:
                name = f"m3-bench-{uuid.uuid4().hex}"
                index = ElasticsearchHybridIndex.create(
                    name, encoder=encoder, uri=url, dense_index=kind, codec="binary"
                )
                index.upsert(documents, embedded)
                row = measured(index, queries, exact)
                table.add_row(folder.name, kind, *row, *(measured(index, queries, exact) if ends_early(index) else ()))
                index.drop()
    Console().print(table)


if __name__ == "__main__":
    main()
