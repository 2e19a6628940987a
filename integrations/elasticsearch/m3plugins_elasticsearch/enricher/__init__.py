"""The ingest pipeline that every licence can have: workers that keep an attached index's M3 fields filled."""

from m3plugins_elasticsearch.enricher.metrics import EnrichReport, Metrics, VerifyReport
from m3plugins_elasticsearch.enricher.worker import Enricher

__all__ = ["EnrichReport", "Enricher", "Metrics", "VerifyReport"]
