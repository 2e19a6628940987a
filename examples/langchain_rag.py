"""Ask a folder of Markdown files with LangChain: M3 retrieves the passages, a chat model answers from them.

    python examples/langchain_rag.py [FOLDER] [QUESTION]

The chat model is LangChain's fake one, which repeats what it is asked; put your own in its place.
"""

import sys
import tempfile
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from langchain_m3plugins import M3Retriever, M3VectorStore
from m3plugins import HybridRetriever, M3Encoder
from m3plugins.encoding import Passages
from m3plugins_milvus import MilvusHybridIndex

DOCS = Path(__file__).parents[1] / "docs"
PROMPT = ChatPromptTemplate.from_template("Answer from these passages only.\n\n{passages}\n\nQuestion: {question}")


def read(folder: Path) -> list[Document]:
    return [
        Document(id=path.name, page_content=path.read_text(encoding="utf-8"), metadata={"file": path.name})
        for path in sorted(folder.glob("*.md"))
    ]


def cite(passages: list[Document]) -> str:
    return "\n\n".join(
        f"[{passage.metadata['file']}, score {passage.metadata['m3']['score']:.2f}]\n{passage.page_content}"
        for passage in passages
    )


def main(folder: Path = DOCS, question: str = "Can an interrupted training run be resumed?") -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")  # or "BAAI/bge-m3"
    cut = Passages(size=150, overlap=30)
    with (
        tempfile.TemporaryDirectory() as place,
        MilvusHybridIndex.create("docs", encoder=encoder, uri=f"{place}/m3.db", passages=cut) as index,
    ):
        files = M3VectorStore(HybridRetriever(index)).add_documents(read(folder))
        print(f"{len(files)} files, {index.count()} passages\n")

        retriever = M3Retriever(retriever=HybridRetriever(index), k=3)
        question_and_passages = {"passages": retriever | cite, "question": RunnablePassthrough()}
        chain = question_and_passages | PROMPT | ParrotFakeChatModel() | StrOutputParser()
        print(chain.invoke(question))


if __name__ == "__main__":
    main(*[convert(argument) for convert, argument in zip((Path, str), sys.argv[1:], strict=False)])
