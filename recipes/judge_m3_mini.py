"""Judge m3-mini on collections that it has never seen, beside BM25 and its own untrained heads.

    python recipes/judge_m3_mini.py DIR/scifact DIR/cacm [--model FOLDER]

nDCG@10; texts cut at 256 tokens, the length that the base model was made for, so that the row `dense` is MiniLM's own
embedding; the encoder runs in bfloat16; the multi-vector head ranks the 200 best by dense + sparse. BM25 has k1 0.9
and b 0.4, with Porter stems and Lucene's stop words, or over the model's word pieces, which is what the sparse head
sees. Intervals are of 95%, by a paired bootstrap over queries.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mini_data import read_task
from mini_scores import ROWS, bm25_scores, head_scores, ndcg, ndcg_of_rows, stemmed_bm25_scores
from train_m3_mini import untrained_checkpoint

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.evaluation.significance import bootstrap_interval
from m3plugins.training import M3Model
from m3plugins.training.model.state_cache import StateCache

COMPARED = [
    ("All", "dense"),
    ("All", "BM25"),
    ("All", "multi-vector"),
    ("All", "untrained All"),
    ("sparse", "BM25 over word pieces"),
    ("sparse", "untrained sparse"),
    ("multi-vector", "untrained multi-vector"),
    ("D+S", "untrained D+S"),
]


def main() -> None:
    """Score every collection, then print the figures and the differences."""
    parser = argparse.ArgumentParser(description="Judge m3-mini on collections it has never seen.")
    parser.add_argument("collections", type=Path, nargs="+", help="folders in the BEIR layout, judged on `test`")
    parser.add_argument("--model", default="m3-mini", help="m3-mini, or a folder with the same encoder")
    parser.add_argument("--work", type=Path, default=Path("m3-mini-work"), help="as in train_m3_mini.py")
    arguments = parser.parse_args()

    encoder, cache = M3Encoder.from_pretrained(arguments.model), StateCache(8 << 30)
    models = {
        "": M3Model(encoder.checkpoint, freeze_encoder=True, state_cache=cache),
        "untrained ": M3Model(Checkpoint(untrained_checkpoint(arguments.work)), freeze_encoder=True, state_cache=cache),
    }
    values: dict[str, list[np.ndarray]] = {}
    for folder in arguments.collections:
        task = read_task(folder.parent, folder.name, "test")
        values.setdefault("BM25", []).append(ndcg(stemmed_bm25_scores(task), task))
        values.setdefault("BM25 over word pieces", []).append(ndcg(bm25_scores(task, encoder), task))
        for label, model in models.items():
            for row, found in ndcg_of_rows(head_scores(model, task), task).items():
                values.setdefault(label + row, []).append(found)

    names = [folder.name for folder in arguments.collections]
    print(f"| nDCG@10 | {' | '.join(names)} | mean |\n|---|{'---|' * (len(names) + 1)}")
    for name in ("BM25", "BM25 over word pieces", *ROWS, *(f"untrained {row}" for row in ROWS)):
        means = [part.mean() for part in values[name]]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in [*means, np.mean(means)])} |")
    print()
    for ours, theirs in COMPARED:
        found = bootstrap_interval([(a - b)[None] for a, b in zip(values[ours], values[theirs], strict=True)])
        points = f"{100 * found.mean:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        print(f"{ours} against {theirs}: {points}")


if __name__ == "__main__":
    main()
