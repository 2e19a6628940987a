"""Encoding speed against FlagEmbedding: one random checkpoint of BGE-M3's shape, the same texts, one run.

    .parity/bin/python -m benchmarks.encode [--texts 128] [--layers 24]

Each encoder runs in a process of its own, after a warm-up. FlagEmbedding runs its first batch twice (to
find a batch size that fits); the second ratio leaves that repetition out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.children import need_reference, peak_mib, report, run
from benchmarks.fixtures import save_checkpoint
from benchmarks.texts import mixed_texts

MAX_LENGTH = 512


def gemm_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the best of several matrix products of the model's feed-forward shape."""
    left, right = torch.randn(4096, 1024).to(dtype), torch.randn(1024, 4096).to(dtype)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * 4096 * 1024 * 4096 / best


def run_m3plugins(checkpoint: str, texts: list[str], dtype: str) -> dict[str, float]:
    from m3plugins import M3Encoder

    encoder = M3Encoder.from_pretrained(checkpoint, dtype=dtype, document_max_length=MAX_LENGTH)
    encoder.encode_documents(texts[:2])
    start = time.perf_counter()
    output = encoder.encode_documents(texts)
    seconds = time.perf_counter() - start
    lengths = output.token_counts.astype(float)
    return {"seconds": seconds, "tokens": lengths.sum(), "squared": (lengths**2).sum(), "repeated": 0.0}


def run_flagembedding(checkpoint: str, texts: list[str], batch_size: int) -> dict[str, float]:
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(checkpoint, use_fp16=False, devices="cpu")
    options = {"batch_size": batch_size, "max_length": MAX_LENGTH, "return_sparse": True, "return_colbert_vecs": True}
    model.encode(texts[:2], **options)
    passes: list[float] = []
    forward = model.model.forward

    def timed(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        output = forward(*args, **kwargs)
        passes.append(time.perf_counter() - start)
        return output

    model.model.forward = timed
    start = time.perf_counter()
    model.encode(texts, **options)
    return {"seconds": time.perf_counter() - start, "repeated": passes[0]}


def child(arguments: argparse.Namespace) -> None:
    texts = list(mixed_texts(arguments.texts))
    if arguments.child == "flagembedding":
        result = run_flagembedding(arguments.checkpoint, texts, arguments.reference_batch_size)
    else:
        result = run_m3plugins(arguments.checkpoint, texts, arguments.child)
    report(**result, peak_gib=peak_mib() / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--reference-batch-size", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    need_reference()

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(
            Path(folder),
            hidden_size=1024,
            layers=arguments.layers,
            heads=16,
            intermediate_size=4096,
            vocab_size=250_002,
        )
        options = ["--checkpoint", checkpoint, "--texts", arguments.texts]
        options += ["--reference-batch-size", arguments.reference_batch_size]
        rows = {
            which: run("benchmarks.encode", "--child", which, *options)
            for which in ("float32", "bfloat16", "flagembedding")
        }
    peaks = {dtype: gemm_peak(getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}

    reference = rows["flagembedding"]
    tokens, squared = rows["float32"]["tokens"], rows["float32"]["squared"]
    flop = arguments.layers * (tokens * 2 * (4 * 1024**2 + 2 * 1024 * 4096) + squared * 4 * 1024)
    once = reference["seconds"] - reference["repeated"]
    summary = {
        name: {
            "tokens_per_second": tokens / row["seconds"],
            "ratio": reference["seconds"] / row["seconds"],
            "ratio_without_repetition": once / row["seconds"],
            "share_of_gemm_peak": flop / row["seconds"] / peaks["bfloat16" if name == "bfloat16" else "float32"],
            "peak_gib": row["peak_gib"],
        }
        for name, row in rows.items()
    }
    if arguments.json:
        print(json.dumps({"tokens": tokens, "gemm_flops": peaks, "encoders": summary}))
        return
    table = Table(
        title=f"{arguments.texts} texts, {tokens:.0f} tokens, {arguments.layers} layers; "
        f"GEMM peak {peaks['float32'] / 1e9:.0f} (float32), {peaks['bfloat16'] / 1e9:.0f} (bfloat16) GFLOP/s"
    )
    for column in ("encoder", "tokens/s", "x FlagEmbedding", "x less its repeated batch", "of GEMM peak", "peak GiB"):
        table.add_column(column, justify="left" if column == "encoder" else "right")
    for name, row in summary.items():
        table.add_row(
            "FlagEmbedding float32" if name == "flagembedding" else f"m3plugins {name}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_without_repetition']:.2f}",
            f"{row['share_of_gemm_peak']:.0%}",
            f"{row['peak_gib']:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
