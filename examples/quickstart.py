"""Index docstrings of the standard library and search them: what `m3 index` and `m3 search` do, in Python."""

import inspect
import json
import shutil
import statistics
import tempfile
import textwrap

from m3plugins import Document, HybridRetriever, M3Encoder
from m3plugins_milvus import MilvusHybridIndex

MODULES = (json, shutil, statistics, tempfile, textwrap)

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
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=f"{folder}/m3.db") as index:
        report = index.upsert(documents)
        print(f"{report.written} documents written, {len(report.failed)} failed")

        retriever = HybridRetriever(index)
        for question in ("remove a whole folder and everything in it", "how far do the values lie from their average?"):
            print(f"\n{question}")
            for hit in retriever.search(question, k=3):
                print(f"  {hit.score:.3f}  {hit.id}  {hit.scores}")
