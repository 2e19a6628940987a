"""Long documents: whole, with MCLS, and as passages. Tokens a CPU second and peak memory on one random checkpoint.

    python -m benchmarks.long_documents [--documents 4] [--layers 6] [--width 384]

Each measurement runs in a process of its own, after a warm-up. Tokens a second are tokens of the text: what
passages repeat of each other, and CLS tokens, cost time and count in "read" only. Cutting is part of the time.
The rate is that of the fastest document, by CPU time of all threads, which other processes disturb least.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.children import peak_mib, report, run
from benchmarks.fixtures import SENTENCES, save_checkpoint
from m3plugins import M3Encoder
from m3plugins.encoding import Passages

MAX_LENGTH = 8192
MCLS = 256
PASSAGES = Passages(512, overlap=64)
KINDS = {
    "whole": "whole",
    "mcls": f"MCLS {MCLS}",
    "passages": f"passages {PASSAGES.size}/{PASSAGES.overlap}",
}


def long_texts(encoder: M3Encoder, count: int) -> list[str]:
    """Documents that just fill the model."""
    room = encoder.document_layout.text_tokens
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(count):
        text = " ".join(rng.choice(SENTENCES, size=MAX_LENGTH // 16))
        offsets = encoder.tokenizer.encode(text, add_special_tokens=False).offsets
        texts.append(text[: offsets[room - 1][1]])
    return texts


def child(arguments: argparse.Namespace) -> None:
    mcls = MCLS if arguments.child == "mcls" else None
    encoder = M3Encoder.from_pretrained(arguments.checkpoint, mcls=mcls).warm_up()
    texts = long_texts(encoder, arguments.documents)
    encoder.encode_documents(["a text to warm up with"])
    read, seconds = 0, float("inf")
    for text in texts:
        start = time.process_time()
        pieces = PASSAGES.split(text, encoder) if arguments.child == "passages" else [text]
        output = encoder.encode_documents(pieces)
        seconds = min(seconds, time.process_time() - start)
        read += int(output.token_counts.sum())
    tokens = encoder.document_layout.text_tokens
    report(tokens_per_second=tokens / seconds, read_per_token=read / tokens / len(texts), mib=peak_mib())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(
            Path(folder),
            hidden_size=arguments.width,
            layers=arguments.layers,
            heads=arguments.width // 32,
            intermediate_size=4 * arguments.width,
        )
        options = ["--checkpoint", checkpoint, "--documents", arguments.documents]
        rows = {kind: run("benchmarks.long_documents", "--child", kind, *options) for kind in KINDS}
    if arguments.json:
        print(json.dumps(rows))
        return
    table = Table(
        title=f"{arguments.documents} documents of {MAX_LENGTH} tokens, all heads; "
        f"random M3, {arguments.layers} layers, width {arguments.width}"
    )
    columns = ("encoded", "tokens/CPU s", "x whole", "read/token", "peak MiB", "x whole")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    whole = rows["whole"]
    for kind, row in rows.items():
        table.add_row(
            KINDS[kind],
            f"{row['tokens_per_second']:.0f}",
            f"{row['tokens_per_second'] / whole['tokens_per_second']:.2f}",
            f"{row['read_per_token']:.3f}",
            f"{row['mib']:.0f}",
            f"{row['mib'] / whole['mib']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
