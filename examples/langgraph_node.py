"""M3 as a node of a LangGraph: search the notes of one machine, and all of them if none of those scores well."""

import asyncio
from typing import TypedDict

from langchain_core.documents import Document
from langgraph.graph import END, START, StateGraph

from langchain_m3plugins import M3Embeddings, M3Retriever, M3VectorStore
from m3plugins.retrieval import filters

NOTES = {
    "The pump is primed by opening the upper valve.": {"machine": "pump"},
    "Error E17 on the pump means that it runs dry.": {"machine": "pump"},
    "The boiler is lit once the pressure is above 2 bar.": {"machine": "boiler"},
    "Error E42 on the boiler means that the flame sensor is dirty.": {"machine": "boiler"},
}
GOOD = 1.5  # a text scores about 2.3 with itself

store = M3VectorStore.from_texts(list(NOTES), M3Embeddings(model="m3-mini"), list(NOTES.values()))
retriever = M3Retriever(retriever=store.retriever, k=2)


class State(TypedDict, total=False):
    """The state that the nodes read and write."""

    question: str
    machine: str
    notes: list[Document]


async def ask_one(state: State) -> State:
    only = filters.eq("machine", state["machine"])
    return {"notes": await retriever.ainvoke(state["question"], filter=only, score_threshold=GOOD)}


async def ask_all(state: State) -> State:
    print(f"  nothing good about the {state['machine']}, asking all notes")
    return {"notes": await retriever.ainvoke(state["question"])}


graph = StateGraph(State).add_node(ask_one).add_node(ask_all)
graph.add_edge(START, "ask_one").add_conditional_edges(
    "ask_one", lambda state: END if state["notes"] else "ask_all", ["ask_all", END]
).add_edge("ask_all", END)


async def main() -> None:
    app = graph.compile()
    for machine in ("boiler", "pump"):
        print(f"what does error E42 mean? ({machine})")
        answer = await app.ainvoke({"question": "what does error E42 mean?", "machine": machine})
        for note in answer["notes"]:
            print(f"  {note.metadata['m3']['score']:.2f}  {note.page_content}")


if __name__ == "__main__":
    asyncio.run(main())
