"""Sizes of an index: bytes a token and a document, by model and codec, measured on disk.

    python -m benchmarks.sizes [--elasticsearch URL]

The documents are the repository's READMEs and guides, in pieces of 120 words that overlap. "A token" is what the codec
makes of one token's vector; "a document" is all that the engine stores, by documents: text, dense and sparse vectors,
and what the engine itself adds. The model of BGE-M3's width is a random one of one layer, with a small vocabulary.
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.fixtures import save_checkpoint
from m3plugins import Document, M3Encoder, M3Output
from m3plugins.compression import CODECS, get_codec
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from m3plugins_milvus import MilvusHybridIndex

ROOT = Path(__file__).parents[1]
WORDS, STEP = 120, 30


def documents() -> list[Document]:
    files = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("integrations/*/README.md")) + sorted(ROOT.glob("docs/*.md"))
    words = [word for file in files for word in file.read_text(encoding="utf-8").split()]
    pieces = [" ".join(words[start : start + WORDS]) for start in range(0, len(words), STEP)]
    return [Document(id=str(number), text=text) for number, text in enumerate(pieces)]


def in_milvus(encoder: M3Encoder, corpus: list[Document], embedded: list[M3Output], codec: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with MilvusHybridIndex.create("docs", encoder=encoder, uri=Path(folder, "m3.db"), codec=codec) as index:
            index.upsert(corpus, embedded)
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def in_elasticsearch(url: str, encoder: M3Encoder, corpus: list[Document], embedded: list[M3Output], codec: str) -> int:
    name = f"m3-bench-{uuid.uuid4().hex}"
    with ElasticsearchHybridIndex.create(name, encoder=encoder, uri=url, codec=codec) as index:
        index.upsert(corpus, embedded)
        indices = index._connection.client.options(request_timeout=600).indices
        indices.forcemerge(index=name, max_num_segments=1)
        size = indices.stats(index=name, metric="store")["_all"]["primaries"]["store"]["size_in_bytes"]
        index.drop()
    return int(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elasticsearch", metavar="URL", help="of a node, to measure there as well")
    arguments = parser.parse_args()
    corpus = documents()
    text = sum(len(document.text.encode()) for document in corpus)
    table = Table(
        *("model", "tokens a document", "codec", "bytes a token", "bytes a document: Milvus Lite", "Elasticsearch"),
        title=f"{len(corpus)} documents of {text // len(corpus)} bytes of text",
    )
    with tempfile.TemporaryDirectory() as folder:
        wide = save_checkpoint(Path(folder), hidden_size=1024, layers=1, heads=16, intermediate_size=4096)
        for name, model in (("m3-mini", "m3-mini"), ("random, BGE-M3's width", wide)):
            encoder = M3Encoder.from_pretrained(model, document_max_length=512)
            embedded = list(encoder.iter_documents([document.content for document in corpus], progress=True))
            tokens = sum(int(output.token_counts.sum()) for output in embedded) / len(corpus)
            for codec in reversed(CODECS):
                sizes = [in_milvus(encoder, corpus, embedded, codec)]
                if arguments.elasticsearch:
                    sizes.append(in_elasticsearch(arguments.elasticsearch, encoder, corpus, embedded, codec))
                width = encoder.multi_vector_dim
                shown = [f"{size / len(corpus):,.0f}" for size in sizes]
                table.add_row(
                    f"{name} ({width})", f"{tokens:.0f}", codec, f"{get_codec(codec).bytes_per_token(width):,}", *shown
                )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
