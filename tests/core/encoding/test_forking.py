"""Forked processes: what was made before the fork works there, or says at once that it cannot."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from m3plugins import Document, HybridRetriever, InMemoryHybridIndex, M3Encoder, M3Output
from m3plugins.encoding import shared_encoder
from m3plugins.encoding.backends.torch import torch_device
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.forking import ForkError
from m3plugins.encoding.loaded import LoadedModel
from m3plugins.reranking import CrossEncoderReranker
from tests.core.encoding.forks import SECONDS, in_child
from tests.tiny import SENTENCES, save_cross_encoder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

TEXTS = [" ".join(SENTENCES)] * 6
"""Enough tokens that torch computes them in several threads."""


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1 << 20).add(1)  # starts this thread's OpenMP team
    yield
    torch.set_num_threads(before)


@pytest.fixture
def loaded(checkpoint: Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint, devices="cpu").warm_up()


def dense(encoder: M3Encoder) -> np.ndarray:
    return encoder.encode_documents(TEXTS).dense


def test_an_encoder_that_was_used_before_a_fork_works_after_it(loaded: M3Encoder):
    expected = dense(loaded)
    np.testing.assert_allclose(in_child(lambda: dense(loaded)), expected, atol=1e-6)
    np.testing.assert_allclose(in_child(lambda: in_child(lambda: dense(loaded))), expected, atol=1e-6)
    np.testing.assert_allclose(dense(loaded), expected, atol=1e-6)


def test_an_encoder_that_is_loaded_or_made_after_the_fork_works_there(checkpoint: Path, encoder: M3Encoder):
    expected = dense(encoder)
    idle = M3Encoder.from_pretrained(checkpoint)
    np.testing.assert_allclose(in_child(lambda: dense(idle)), expected, atol=1e-6)
    np.testing.assert_allclose(in_child(lambda: dense(M3Encoder.from_pretrained(checkpoint))), expected, atol=1e-6)
    np.testing.assert_allclose(in_child(lambda: dense(shared_encoder(checkpoint))), expected, atol=1e-6)


def test_workers_as_of_gunicorn_encode_with_the_model_that_was_loaded_ahead(loaded: M3Encoder):
    dense(loaded)
    worker = os.fork()
    if not worker:
        os._exit(0 if dense(loaded).shape == (6, 32) else 1)
    watch = threading.Timer(SECONDS, os.kill, (worker, 9))
    watch.start()
    assert os.waitpid(worker, 0)[1] == 0
    watch.cancel()


class Encoded(Dataset):
    def __init__(self, encoder: M3Encoder) -> None:
        self.encoder = encoder

    def __len__(self) -> int:
        return len(SENTENCES)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self.encoder.encode_documents([SENTENCES[row]]).dense[0])


def test_workers_of_a_data_loader_encode(loaded: M3Encoder):
    batches = DataLoader(Encoded(loaded), batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=SECONDS)
    np.testing.assert_allclose(torch.cat(list(batches)), loaded.encode_documents(SENTENCES).dense, atol=1e-6)


def test_a_fork_while_threads_encode_leaves_no_lock_and_no_promise_behind(loaded: M3Encoder):
    expected = loaded.encode_queries(["fox"]).dense
    done = threading.Event()

    def encode() -> None:
        while not done.is_set():
            loaded.memo.encode_queries(["fox"])
            loaded.memo.clear()

    threads = [threading.Thread(target=encode) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            found = in_child(lambda: loaded.memo.encode_queries(["fox"]).dense)
            np.testing.assert_allclose(found, expected, atol=1e-6)
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_model_on_an_accelerator_is_refused_in_a_fork_with_the_way_out(checkpoint: Path):
    loaded = LoadedModel(Checkpoint(checkpoint), M3Encoder.from_pretrained(checkpoint, devices="cpu").options)
    loaded._replicas[0].forkable = False  # as on a device of its own memory
    encoder = M3Encoder(checkpoint, loaded=loaded)
    with pytest.raises(ForkError, match='"spawn", or load the model after the fork'):
        in_child(lambda: encoder.encode_queries(["fox"]))
    assert len(encoder.encode_queries(["fox"])) == 1


@pytest.mark.parametrize("devices", [0, 1])
def test_a_fork_of_a_process_that_asked_for_accelerators_uses_the_cpu_if_there_are_none(monkeypatch, devices: int):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    if devices:
        with pytest.raises(ForkError, match="load the model after the fork"):
            torch_device("auto")
    else:
        assert torch_device("auto") == torch.device("cpu")


def test_an_index_in_memory_is_searched_after_a_fork_and_found_whole_while_a_thread_writes(loaded: M3Encoder):
    index = InMemoryHybridIndex(encoder=loaded)
    embedding = loaded.encode_documents(["A fox"])
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            many = [Document(id=f"{number % 20}-{part}", text=f"A fox {number}") for part in range(20)]
            index.upsert(many, M3Output.concatenate([embedding] * 20))

    def search() -> tuple[int, int]:
        found = HybridRetriever(index, candidates=1000, multi_vector_depth=1000).search("fox", k=1000)
        return len(found), index.count()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            hits, count = in_child(search)
            assert hits == count and count % 20 == 0
    finally:
        done.set()
        writer.join()


def test_a_cross_encoder_scores_after_a_fork(tmp_path: Path):
    reranker = CrossEncoderReranker(save_cross_encoder(tmp_path), device="cpu")
    expected = reranker.score("fox", TEXTS)
    np.testing.assert_allclose(in_child(lambda: reranker.score("fox", TEXTS)), expected, atol=1e-6)
