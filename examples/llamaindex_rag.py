"""Ask a folder of Markdown files with LlamaIndex: M3 retrieves the passages, an LLM answers from them.

    python examples/llamaindex_rag.py [FOLDER] [QUESTION]

The LLM is LlamaIndex' mock, which repeats what it is asked; put your own in its place.
"""

import sys
import tempfile
from pathlib import Path

from llama_index.core import PromptTemplate, SimpleDirectoryReader
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import MarkdownNodeParser, SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore
from llama_index.retrievers.m3plugins import M3Retriever
from llama_index.vector_stores.m3plugins import M3VectorStore, StoreEmbedding

from m3plugins import HybridRetriever, M3Encoder
from m3plugins_milvus import MilvusHybridIndex

DOCS = Path(__file__).parents[1] / "docs"
PROMPT = PromptTemplate("Answer from these passages only.\n\n{context_str}\n\nQuestion: {query_str}")


def cite(node: NodeWithScore) -> str:
    heads = ", ".join(f"{head} {score:.2f}" for head, score in node.metadata["scores"].items())
    return f"{node.metadata['file_name']} ({heads})"


def main(folder: Path = DOCS, question: str = "Can an interrupted training run be resumed?") -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")  # or "BAAI/bge-m3"
    with (
        tempfile.TemporaryDirectory() as place,
        MilvusHybridIndex.create("docs", encoder=encoder, uri=f"{place}/m3.db") as index,
    ):
        retriever = HybridRetriever(index)
        pipeline = IngestionPipeline(
            transformations=[
                MarkdownNodeParser(),
                SentenceSplitter(chunk_size=200, chunk_overlap=30),
                StoreEmbedding(),
            ],
            vector_store=M3VectorStore(retriever=retriever),
        )
        files = SimpleDirectoryReader(folder, required_exts=[".md"]).load_data()
        print(f"{len(files)} files, {len(pipeline.run(documents=files))} passages\n")

        engine = RetrieverQueryEngine.from_args(
            M3Retriever(retriever=retriever, k=3, scores_key="scores"), llm=MockLLM(), text_qa_template=PROMPT
        )
        answer = engine.query(question)
        print(answer, "\n\nSources:", *(f"  {cite(node)}" for node in answer.source_nodes), sep="\n")


if __name__ == "__main__":
    main(*[convert(argument) for convert, argument in zip((Path, str), sys.argv[1:], strict=False)])
