"""Costs of one huge text: peak memory over the process that holds it, and seconds, to tokenise and to cut it.

    python -m benchmarks.huge_texts [--megabytes 100] [--passages 20] [--whole] [--tokenizer NAME=tokenizer.json]

Each measurement is of a process of its own. "Read" is what the encoder does with the text before the forward pass,
at 512 and at 8,192 tokens; "passages" cuts a text into passages of 200 tokens. `--whole` tokenises all of the text
and cuts the tokens, as tokenizers do by themselves: try it with few megabytes. The tokenizers are m3-mini's
(WordPiece) and two small ones that are made here, as XLM-R's (Unigram) and GPT-2's (byte-level BPE) are.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from benchmarks.children import peak_mib, report, run
from benchmarks.fixtures import SENTENCES, train_tokenizer
from m3plugins import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.encoding.tokenizing import Layout, TextTokenizer, check_text

UNITS = {
    "one character": "a",
    "punctuation": "?!.,;:-…" * 3 + "!!!",
    "Thai": SENTENCES[9],
    "Chinese": SENTENCES[5].rstrip("。"),
    "one word, spaced": "fox ",
    "one word, unspaced": "fox",
    "unknown characters": "\U00013000",
    "spaces": " ",
    "English": " ".join(SENTENCES[:2]) + "\n",
}


def byte_level() -> Tokenizer:
    """A small byte-level BPE, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=alphabet)
    )
    tokenizer.add_special_tokens(["<s>", AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


MAKE: dict[str, Callable[[], Tokenizer]] = {
    "Unigram": train_tokenizer,
    "WordPiece": lambda: M3Encoder.from_pretrained("m3-mini").tokenizer,
    "byte level": byte_level,
}


class Counter:
    """The part of an encoder that `Passages` asks for."""

    model = "a tokenizer"
    document_layout = Layout(8192)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def child(arguments: argparse.Namespace) -> None:
    name, _, file = arguments.child.partition("=")
    tokenizer = Tokenizer.from_file(file) if file else MAKE[name]()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unit = UNITS[arguments.text]
    text = unit * int(arguments.megabytes * 1e6 / len(unit.encode()))
    reader = TextTokenizer(tokenizer, Layout(arguments.tokens))
    reader.tokenize(["a fox"])
    before = resident_mib()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    start = time.perf_counter()
    check_text(text)
    if arguments.work == "passages":
        count = len(Passages(200).spans(text, Counter(tokenizer)))  # type: ignore[arg-type]
    elif arguments.work == "whole":
        tokenizer.enable_truncation(arguments.tokens)
        count = len(tokenizer.encode(text).ids)
    else:
        count = len(reader.tokenize([text])[0].ids)
    report(mib=peak_mib() - before, seconds=time.perf_counter() - start, count=count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100, help="of UTF-8 (default: %(default)s)")
    parser.add_argument("--passages", type=float, default=20, help="megabytes to cut (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="tokenise whole texts")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME=FILE", help="another one")
    parser.add_argument("--only", nargs="+", metavar="TEXT", default=list(UNITS), help="kinds of text")
    for name in ("--child", "--text", "--work"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return

    table = Table(title="One text: peak MiB over the process that holds it, seconds, tokens or passages")
    for column in ("tokenizer", "text", "MB", "work", "MiB", "seconds", "found"):
        table.add_column(column, justify="left" if column in ("tokenizer", "text", "work") else "right")
    read = "whole" if arguments.whole else "read"
    works = [(read, 512, arguments.megabytes), (read, 8192, arguments.megabytes)]
    works += [] if arguments.whole or not arguments.passages else [("passages", 512, arguments.passages)]
    for tokenizer in (*MAKE, *arguments.tokenizer):
        for text in arguments.only:
            for work, tokens, size in works:
                options = ["--text", text, "--work", work, "--tokens", tokens, "--megabytes", size]
                found = run("benchmarks.huge_texts", "--child", tokenizer, *options)
                label = work if work == "passages" else f"{work} {tokens:,}"
                figures = f"{found['mib']:.0f}", f"{found['seconds']:.1f}", f"{found['count']:,.0f}"
                table.add_row(tokenizer.partition("=")[0], text, f"{size:g}", label, *figures)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
