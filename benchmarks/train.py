"""Training against FlagEmbedding's own M3 trainer: one random checkpoint of BGE-M3's width, the same data, one run.

    .parity/bin/python -m benchmarks.train [--layers 6] [--queries 8] [--steps 4] [--rate TRAINER ...]
        [--search TRAINER ...]

Dense, sparse and multi-vector heads with self-distillation, a positive and a hard negative a query, each run in a
process of its own. First, without dropout, both sides must report the same loss and gradient norm of one batch. Then
the rate at the same batch, over the same examples and without the first step, which allocates the optimizer's
state. Last, the largest batch within the peak memory that FlagEmbedding needs for --budget-queries.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Trainer

from benchmarks.children import need_reference, peak_mib, report, run
from benchmarks.fixtures import save_checkpoint

QUERY_MAX_LENGTH, PASSAGE_MAX_LENGTH = 32, 256
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
SUB_BATCH = {"sub_batch_size": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "FlagEmbedding": {},
    "FlagEmbedding, checkpointing": {"gradient_checkpointing": True},
    "FlagEmbedding, sub-batches": SUB_BATCH,
    # Sub-batches of one width do not crash. One option pads both sides, so that queries get the passages' width.
    "FlagEmbedding, least memory": {
        **SUB_BATCH,
        "pad_to_multiple_of": PASSAGE_MAX_LENGTH,
        "gradient_checkpointing": True,
    },
    "FlagEmbedding bfloat16": {"bf16": True},
    "m3plugins": {},
    "m3plugins, chunked": {"chunk_tokens": 1024},
    "m3plugins bfloat16": {"bf16": True},
}
REFERENCE, CHUNKED = "FlagEmbedding", "m3plugins, chunked"
SEARCHED = ["FlagEmbedding, checkpointing", "FlagEmbedding, least memory", CHUNKED]
LOSS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Result:
    """The figures of one training run, or the error that ended it."""

    loss: float | None = None
    gradient_norm: float | None = None
    seconds_per_step: float | None = None
    peak_gib: float | None = None
    error: str = ""


# --- checkpoint and data ---------------------------------------------------------------------------------------------


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A token a word, so that lengths are exact and ids spread over the vocabulary as those of real text."""
    tokens = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(vocabulary - len(SPECIAL_TOKENS)))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL_TOKENS, strict=True))
    names |= {"cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8192, **names)


def set_dropout(checkpoint: Path, rate: float) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
    path.write_text(json.dumps(config), encoding="utf-8")


def calm(checkpoint: Path) -> None:
    """Gives the layers the gain that the tests' 32-wide models have; 1024-wide, they would amplify rounding."""
    path = checkpoint / "model.safetensors"
    state = load_file(path)
    for name, weight in state.items():
        if weight.ndim == 2 and "embeddings" not in name:
            weight.mul_((32 / 1024) ** 0.5)
    save_file(state, path, metadata={"format": "pt"})


def write_examples(path: Path, count: int, vocabulary: int) -> None:
    """Queries of 8 to 30 words, passages of 50 to 250 or, one in 30, up to 600; words by Zipf's law."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(10, vocabulary + 10 - len(SPECIAL_TOKENS))
    chances /= chances.sum()

    def text(words: int) -> str:
        return " ".join(f"w{word}" for word in rng.choice(len(chances), size=words, p=chances))

    def passage() -> str:
        long = rng.random() < 1 / 30
        return text(rng.integers(250, 600) if long else int(np.clip(np.exp(rng.normal(4.8, 0.4)), 50, 250)))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            example = {"query": text(rng.integers(8, 30)), "pos": [passage()], "neg": [passage()]}
            file.write(json.dumps(example) + "\n")


# --- the two trainers ------------------------------------------------------------------------------------------------


def flagembedding_trainer(checkpoint: str, data: Path, common: dict[str, Any], settings: dict[str, Any]) -> Trainer:
    """Makes a trainer as the command line of `FlagEmbedding.finetune.embedder.encoder_only.m3` does."""
    import datasets
    from FlagEmbedding.finetune.embedder.encoder_only import m3

    datasets.disable_progress_bars()

    settings = dict(settings)
    data_arguments = m3.EncoderOnlyEmbedderM3DataArguments(
        train_data=[str(data)],
        cache_path=str(data.parent),
        train_group_size=2,
        query_max_len=QUERY_MAX_LENGTH,
        passage_max_len=PASSAGE_MAX_LENGTH,
        pad_to_multiple_of=settings.pop("pad_to_multiple_of", None),
    )
    training_arguments = m3.EncoderOnlyEmbedderM3TrainingArguments(
        **common, **settings, unified_finetuning=True, use_self_distill=True
    )
    model_arguments = m3.EncoderOnlyEmbedderM3ModelArguments(model_name_or_path=checkpoint)
    return m3.EncoderOnlyEmbedderM3Runner(model_arguments, data_arguments, training_arguments).trainer


def m3plugins_trainer(checkpoint: str, data: Path, common: dict[str, Any], settings: dict[str, Any]) -> Trainer:
    from m3plugins.training import M3Dataset, SelfDistillationArguments, SelfDistillationTrainer

    arguments = SelfDistillationArguments(
        **common,
        **settings,
        negatives=1,
        query_max_length=QUERY_MAX_LENGTH,
        passage_max_length=PASSAGE_MAX_LENGTH,
    )
    return SelfDistillationTrainer(checkpoint, arguments, train_dataset=M3Dataset.from_jsonl(data))


def train(name: str, checkpoint: str, examples: Path, queries: int, steps: int) -> Result:
    """A first step, which allocates the optimizer's state, then timed ones over queries x steps examples, each once."""
    make = flagembedding_trainer if name.startswith("FlagEmbedding") else m3plugins_trainer
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "examples.jsonl"
        with examples.open(encoding="utf-8") as source:
            data.write_text("".join(islice(source, queries * max(1, steps))), encoding="utf-8")
        common = {
            "output_dir": str(Path(folder) / "output"),
            "max_steps": 1,
            "per_device_train_batch_size": queries,
            "learning_rate": 1e-5,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        seconds = None
        try:
            trainer = make(checkpoint, data, common, SETTINGS[name])
            loss = trainer.train().training_loss
            norm = next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry)
            if steps:
                trainer.args.max_steps = steps
                start = time.perf_counter()
                trainer.train()
                seconds = (time.perf_counter() - start) / steps
        except (RuntimeError, MemoryError) as error:
            return Result(error=str(error), peak_gib=peak_mib() / 1024)
    return Result(loss, float(norm), seconds, peak_mib() / 1024)


def silence() -> None:
    """Reports and bars of the libraries, which would bury the table."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()


def child(arguments: argparse.Namespace) -> None:
    silence()
    torch.set_num_threads(arguments.threads)
    limit = int(available_gib() * 2**30)  # an allocation beyond it fails here, and spares the machine's other processes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    examples = Path(arguments.checkpoint, "examples.jsonl")
    report(**asdict(train(arguments.child, arguments.checkpoint, examples, arguments.queries, arguments.steps)))


def available_gib() -> float:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 2**20


# --- the measurements ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Runs settings, each in a process of its own."""

    checkpoint: Path
    threads: int

    def run(self, name: str, queries: int, steps: int) -> Result:
        """Returns the figures of `train`."""
        options = {"child": name, "checkpoint": self.checkpoint, "queries": queries, "steps": steps}
        options["threads"] = self.threads
        words = [word for option, value in options.items() for word in (f"--{option}", value)]
        try:
            result = Result(**run("benchmarks.train", *words))
        except subprocess.CalledProcessError as error:
            result = Result(error=f"exit status {error.returncode}")
        print(f"  {name}, {queries} queries, {steps} steps: {result}", file=sys.stderr, flush=True)
        return result

    def largest(self, name: str, budget: float, start: int, most: int) -> tuple[int, Result]:
        """The largest batch, to an eighth, whose peak stays within the budget, by doubling and bisection."""
        fits, fails, found, queries = 0, most + 1, Result(), start
        while fits < queries < fails:
            result = self.run(name, queries, 1)
            if result.error or result.peak_gib > budget:
                fails = queries
            else:
                fits, found = queries, result
            if fails > most:
                queries = min(2 * queries, most)
            elif fails - fits > max(1, fits // 8):
                queries = (fits + fails) // 2
        return fits, found


def measure(arguments: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    set_dropout(bench.checkpoint, 0.0)
    first = {name: bench.run(name, arguments.queries, 0) for name in (REFERENCE, "m3plugins", CHUNKED)}
    for name, result in first.items():
        if result.error:
            raise SystemExit(f"{name} fails: {result.error}")
        for figure in ("loss", "gradient_norm"):
            expected, got = getattr(first[REFERENCE], figure), getattr(result, figure)
            if not abs(got - expected) <= LOSS_TOLERANCE * abs(expected):
                raise SystemExit(f"not alike: {figure} of {name} is {got}, FlagEmbedding's {expected}")
    set_dropout(bench.checkpoint, arguments.dropout)
    speed = {name: bench.run(name, arguments.queries, arguments.steps) for name in arguments.rate}
    reference = bench.run(REFERENCE, arguments.budget_queries, 1)
    largest = {REFERENCE: (arguments.budget_queries, reference)}
    for name in arguments.search:
        largest[name] = bench.largest(name, reference.peak_gib, arguments.budget_queries, arguments.most_queries)
    return {
        "first_batch": {name: asdict(result) for name, result in first.items()},
        "speed": {name: asdict(result) for name, result in speed.items()},
        "largest": {name: {"queries": queries, **asdict(result)} for name, (queries, result) in largest.items()},
    }


def print_tables(figures: dict[str, Any], arguments: argparse.Namespace) -> None:
    console = Console(width=120)
    losses = [f"{name} {row['loss']:.4f} ({row['gradient_norm']:.3f})" for name, row in figures["first_batch"].items()]
    console.print(f"loss (gradient norm) of the first batch, without dropout: {', '.join(losses)}")

    speed = figures["speed"]
    passages = 2 * arguments.queries
    rates = Table(title=f"{arguments.queries} queries, {passages} passages a step, {arguments.layers} layers")
    for column in ("trainer", "steps/s", "x FlagEmbedding", "peak GiB"):
        rates.add_column(column, justify="left" if column == "trainer" else "right")
    for name, row in speed.items():
        if row["error"]:
            rates.add_row(name, "fails", "", f"{row['peak_gib']:.1f}")
            continue
        ratio = speed[REFERENCE]["seconds_per_step"] / row["seconds_per_step"]
        rates.add_row(name, f"{1 / row['seconds_per_step']:.3f}", f"{ratio:.2f}", f"{row['peak_gib']:.1f}")
    console.print(rates)
    for name, row in speed.items():
        if row["error"]:
            console.print(f"{name}: {row['error'].splitlines()[0]}", markup=False)

    given, most = figures["largest"][REFERENCE], arguments.most_queries
    sizes = Table(title=f"Within {given['peak_gib']:.1f} GiB, what FlagEmbedding needs for {given['queries']} queries")
    for column in ("trainer", "largest batch", "x FlagEmbedding", "peak GiB", "queries/s"):
        sizes.add_column(column, justify="left" if column == "trainer" else "right")
    for name, row in figures["largest"].items():
        if not row["queries"]:
            sizes.add_row(name, "none")
            continue
        or_more = "or more" if row["queries"] == most else ""
        sizes.add_row(
            name,
            f"{row['queries']} {or_more}",
            f"{row['queries'] / given['queries']:.1f} {or_more}",
            f"{row['peak_gib']:.1f}",
            f"{row['queries'] / row['seconds_per_step']:.2f}",
        )
    console.print(sizes)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=250_002)
    parser.add_argument("--dropout", type=float, default=0.1, help="of the timed runs; BGE-M3's is 0.1")
    parser.add_argument("--queries", type=int, default=8, help="a step, each with two passages")
    parser.add_argument("--steps", type=int, default=4, help="timed")
    parser.add_argument("--budget-queries", type=int, default=4)
    parser.add_argument("--most-queries", type=int, default=64, help="largest batch to try")
    parser.add_argument("--rate", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="TRAINER")
    parser.add_argument("--search", nargs="+", choices=list(SETTINGS)[1:], default=SEARCHED, metavar="TRAINER")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(arguments)
        return
    need_reference()

    shape = {"hidden_size": 1024, "heads": 16, "intermediate_size": 4096, "vocab_size": arguments.vocabulary}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder), layers=arguments.layers, **shape)
        calm(checkpoint)
        word_tokenizer(arguments.vocabulary).save_pretrained(checkpoint)
        examples = max(arguments.queries * arguments.steps, arguments.most_queries)
        write_examples(checkpoint / "examples.jsonl", examples, arguments.vocabulary)
        figures = measure(arguments, Bench(checkpoint, arguments.threads))
    if arguments.json:
        print(json.dumps(figures))
    else:
        print_tables(figures, arguments)


if __name__ == "__main__":
    main()
