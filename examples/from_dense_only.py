"""Move from a store with dense vectors only to all three heads of M3, and see what it changes.

The old store is LangChain's `InMemoryVectorStore`; of any other, read out ids, texts and metadata.
The texts are encoded anew: sparse and token vectors cannot be made of dense ones.
"""

import tempfile

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_m3plugins import M3Embeddings, M3Retriever, M3VectorStore
from m3plugins import HybridRetriever
from m3plugins_milvus import MilvusHybridIndex

NOTES = {
    "disk full": "Exit status 28: no space is left on the device. Free some of it and run the job again.",
    "timeout": "Exit status 124: the job ran longer than its limit. Raise the limit, or split the job.",
    "not executable": "Exit status 126: the command is not executable. Check its permissions.",
    "not found": "Exit status 127: the command was not found. Check the PATH.",
    "out of memory": "Exit status 137: the job was killed, mostly because it used too much memory.",
    "stopped": "Exit status 143: the job was asked to stop and did.",
    "how to rerun": "A job that failed is run again with `job retry`, from its last checkpoint.",
}
QUERIES = ("status 28", "my job failed with 28, what now?", "the computer ran out of RAM")


def ids(found: list[Document]) -> str:
    return ", ".join(str(document.id) for document in found)


def main() -> None:
    embeddings = M3Embeddings(model="m3-mini")  # or "BAAI/bge-m3"
    old = InMemoryVectorStore(embeddings)
    old.add_texts(list(NOTES.values()), [{"source": "handbook"}] * len(NOTES), ids=list(NOTES))

    with (
        tempfile.TemporaryDirectory() as folder,
        MilvusHybridIndex.create("notes", encoder=embeddings.encoder, uri=f"{folder}/m3.db") as index,
    ):
        new = M3VectorStore(HybridRetriever(index))
        moved = new.add_documents(old.get_by_ids(list(old.store)))
        print(f"{len(moved)} documents moved, with their ids and metadata")

        retriever = M3Retriever(retriever=new.retriever)
        for query in QUERIES:
            found = retriever.invoke(query, k=3)
            print(f"\n{query}\n  dense  {ids(old.similarity_search(query, k=3))}\n  M3     {ids(found)}")
            scores = found[0].metadata["m3"].items()
            print("         of the first:", ", ".join(f"{name} {score:.2f}" for name, score in scores))


if __name__ == "__main__":
    main()
