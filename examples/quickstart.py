"""Index docstrings of the standard library and search them: what `m3 index` and `m3 search` do, in Python."""

import inspect
import json
import shutil
import statistics
import tempfile
import textwrap

from m3plugins import Document, HybridRetriever, M3Encoder
from m3plugins.retrieval import explain
from m3plugins_milvus import MilvusHybridIndex

MODULES = (json, shutil, statistics, tempfile, textwrap)
ANSWERS = {
    "remove a whole folder and everything in it": "shutil.rmtree",
    "how strongly do two variables go together?": "statistics.correlation",
    "how much free space is left?": "shutil.disk_usage",
}

documents = [
    Document(
        id=f"{module.__name__}.{name}", title=name, text=inspect.getdoc(item), metadata={"module": module.__name__}
    )
    for module in MODULES
    for name, item in inspect.getmembers(module, inspect.isfunction)
    if name in module.__all__ and inspect.getdoc(item)
]

encoder = M3Encoder.from_pretrained("m3-mini")  # or "BAAI/bge-m3"
with tempfile.TemporaryDirectory() as folder:
    with MilvusHybridIndex.open_or_create("docs", encoder=encoder, uri=f"{folder}/m3.db") as index:
        report = index.upsert(documents)
        print(f"{report.written} documents written, {len(report.failed)} failed")

        retriever = HybridRetriever(index)
        for question, answer in ANSWERS.items():
            print(f"\n{question}")
            hits = retriever.search(question, k=3)
            for hit in hits:
                dense, sparse, late = hit.scores.dense, hit.scores.sparse, hit.scores.multi_vector
                print(f"  {hit.score:.2f} = {dense:.2f} + 0.3 · {sparse:.2f} + {late:.2f}  {hit.id}")
            matches = sorted(explain(question, hits[0], index=index).multi_vector, key=lambda match: -match.similarity)
            words = [f"{m.query} ~ {m.document}" for m in matches if m.query.isalpha() and m.document.isalpha()]
            print(f"  nearest words: {', '.join(words[:4])}")
            if hits[0].id != answer:
                raise SystemExit(f"{answer} should have come first")
