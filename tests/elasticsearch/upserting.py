"""A program that upserts, and writes down what is acknowledged: `test_crash` kills it.

python -m tests.elasticsearch.upserting URL INDEX CHECKPOINT WITNESS
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from m3plugins import Document, M3Encoder, M3Output
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from tests.tiny import SENTENCES

COUNT = 2500


def documents() -> Iterator[Document]:
    """Many, of a few texts, so that they are written and not encoded most of the time."""
    for number in range(COUNT):
        yield Document(id=str(number), text=SENTENCES[number % len(SENTENCES)], metadata={"number": number})


def outputs(encoder: M3Encoder) -> Iterator[M3Output]:
    """The embeddings of `documents`."""
    rows = encoder.encode_documents(SENTENCES)
    for number in range(COUNT):
        yield rows[number % len(SENTENCES)]


def main(url: str, name: str, checkpoint: str, witness: str) -> None:
    encoder = M3Encoder.from_pretrained(checkpoint)
    with open(witness, "a") as file, ElasticsearchHybridIndex.open(name, encoder=encoder, uri=url) as index:

        def on_ack(ids: list[str]) -> None:
            file.write("".join(f"{i}\n" for i in ids))
            file.flush()
            os.fsync(file.fileno())

        index.upsert(documents(), embeddings=outputs(encoder), on_ack=on_ack)


if __name__ == "__main__":
    main(*sys.argv[1:])
