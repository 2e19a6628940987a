"""Counters of the service, in Prometheus' format; they hold no text and no key."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from m3plugins.serving.batcher import Batcher

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counts requests by path and status, their seconds, their texts, and what waits.

    Args:
        batcher: Whose queue is measured when somebody asks.

    Attributes:
        registry: What `/metrics` tells.
    """

    def __init__(self, batcher: Batcher) -> None:
        self.registry = CollectorRegistry()
        labels = ["path", "status"]
        self._requests = Counter("m3_requests", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "m3_request_seconds", "Seconds per request.", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self._texts = Counter("m3_texts", "Texts asked for.", ["kind"], registry=self.registry)
        queued = Gauge("m3_queued_texts", "Texts that wait for a forward pass.", registry=self.registry)
        queued.set_function(lambda: batcher.queued)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def asked(self, kind: str, texts: int) -> None:
        """Counts the texts of a request."""
        self._texts.labels(kind).inc(texts)
