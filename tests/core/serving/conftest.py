import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from m3plugins import M3Encoder
from m3plugins.encoding.backends.torch import TorchBackend

uvicorn = pytest.importorskip("uvicorn", reason="the service needs m3plugins[serve]")


@contextmanager
def served(encoder: M3Encoder, **options) -> Iterator[httpx.Client]:
    """A service on a free port of this machine, and a client of it."""
    from m3plugins.serving import ServiceOptions, create_app

    config = uvicorn.Config(create_app(encoder, ServiceOptions(**options)), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def client(encoder: M3Encoder) -> Iterator[httpx.Client]:
    with served(encoder) as client:
        yield client


class Gate:
    """The batches that a backend encodes, by their numbers of texts; `opened` holds them up while it is not set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.reached, self.opened = threading.Event(), threading.Event()
        forward = TorchBackend.forward

        def slow(backend, batch, heads):
            self.batches.append(len(batch))
            self.reached.set()
            assert self.opened.wait(60)
            return forward(backend, batch, heads)

        monkeypatch.setattr(TorchBackend, "forward", slow)

    def close(self) -> None:
        self.opened.clear()
        self.reached.clear()


@pytest.fixture
def gate(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    encoder.warm_up()
    encoder.memo.clear()
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()
