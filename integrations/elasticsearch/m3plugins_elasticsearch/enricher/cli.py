"""`m3 enrich`: the enricher as a command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3plugins.cli.errors import CallError, Interrupted
from m3plugins.cli.options import Collection, Dtype, Model, Token, load_encoder
from m3plugins.cli.printing import complain, print_json, say
from m3plugins_elasticsearch.enricher.console import Lines, Progress, summary, verdict

if TYPE_CHECKING:
    from m3plugins_elasticsearch.attached import AttachedIndex
    from m3plugins_elasticsearch.enricher.worker import Enricher


def enrich(
    uri: Annotated[str, typer.Option(help="The address of Elasticsearch.")] = "http://localhost:9200",
    collection: Collection = "docs",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Path of the text in a document, needed the first time; several are joined."),
    ] = None,
    title: Annotated[str, typer.Option(help="Path of the title, if there is one.")] = "",
    model: Model = "m3-mini",
    codec: Annotated[
        str,
        typer.Option(
            help="Codec of the token vectors: binary, int8 or float16 (default: the index's own; binary for a new one)."
        ),
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Enrich what is there, and end.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Enrich what is there and what comes, as a service.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every document with its vectors.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Look at every document once more, with --once.")] = False,
    worker: Annotated[str, typer.Option(help="A name for this worker, for people.")] = "",
    lease: Annotated[float, typer.Option(min=1, help="Seconds of silence after which others take over.")] = 30.0,
    poll: Annotated[float, typer.Option(min=0.05, help="Seconds between looks for changes.")] = 1.0,
    token: Token = "",
    dtype: Dtype = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON objects, one a line, and nothing else.")] = False,
) -> int:
    """Keep M3 vectors up to date in an Elasticsearch index that others write to.

    Any number of workers may run side by side, --once and --watch alike. SIGTERM and Ctrl-C end one after its current
    batch. The index m3-dead-letters.NAME lists the documents that cannot be enriched, with the reasons.
    """
    if once + watch + verify != 1 or (anew and not once):
        msg = "say one of --once, --watch and --verify; --anew goes with --once"
        raise CallError(msg)
    with _attached(uri, collection, text, title, model, codec, token, dtype) as index:
        enricher = _enricher(index, worker, collection, lease, poll)
        place = f"{collection} at {uri}"
        if verify:
            return _verify(enricher, place, as_json)
        with _ending() as stop:
            if watch:
                _watch(enricher, stop, as_json)
                return 0
            return _once(enricher, stop, place, anew, as_json)


def _once(enricher: Enricher, stop: threading.Event, place: str, anew: bool, as_json: bool) -> int:
    with Progress() as shown:
        report = enricher.run_once(shown, anew=anew, stop=stop)
    if as_json:
        print_json(asdict(report))
    else:
        say(f"{place}: {summary(report)}")
    if report.dead_letters:
        complain(f"{report.dead_letters} documents cannot be enriched; {_letters(enricher)}")
    if not report.completed:
        msg = "interrupted; run the same command again: it goes on"
        raise Interrupted(msg)
    return 0 if report.completed and not report.dead_letters else 1


def _watch(enricher: Enricher, stop: threading.Event, as_json: bool) -> None:
    lines = Lines(as_json)
    last = enricher.watch(stop, lines)
    lines.show(last)


def _verify(enricher: Enricher, place: str, as_json: bool) -> int:
    report = enricher.verify()
    told = {**asdict(report), "documents": report.documents}
    if as_json:
        print_json(told)
    else:
        say(f"{place}: {verdict(report)}")
        for name, ids in report.examples.items():
            say(f"{name}: {', '.join(ids)}", indent=2)
    if report.dead:
        complain(f"{report.dead} documents cannot be enriched; {_letters(enricher)}")
    if report.stale + report.missing + report.orphaned:
        complain("run m3 enrich --once; where that finds nothing to do, with --anew")
    return 0 if report.complete else 1


def _letters(enricher: Enricher) -> str:
    return f"the index m3-dead-letters.{enricher.index} says why"


def _enricher(index: AttachedIndex, worker: str, follow: str, lease: float, poll: float) -> Enricher:
    from m3plugins_elasticsearch.enricher.worker import Enricher

    try:
        return Enricher(index, worker=worker or None, follow=follow, lease_s=lease, poll_s=poll)
    except ValueError as err:
        raise CallError(str(err)) from err


@contextmanager
def _attached(
    uri: str, name: str, text: list[str] | None, title: str, model: str, codec: str, token: str, dtype: str
) -> Iterator[AttachedIndex]:
    from m3plugins_elasticsearch.attached import AttachedIndex

    if title and not text:
        msg = "--title goes with --text, which names the text"
        raise CallError(msg)
    fields = {"text": text, "title": title} if text else None
    encoder = load_encoder(model, dtype)
    try:
        index = AttachedIndex.attach(
            name, encoder=encoder, fields=fields, uri=uri, token=token or None, codec=codec or None
        )
    except ValueError as err:
        raise CallError(str(err)) from err
    with index:
        yield index


@contextmanager
def _ending() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set; the second of them does what it always does."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[int(number)] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for ended, handler in before.items():
            signal.signal(ended, handler)
