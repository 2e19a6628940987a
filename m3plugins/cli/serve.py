"""`m3 serve`: the HTTP service of a model."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import Annotated

import typer

from m3plugins.cli.options import Dtype, Json, Model, calls, load_encoder
from m3plugins.cli.printing import print_json, say


def serve(
    model: Model = "m3-mini",
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8080,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask callers for one of these API keys: a SHA-256 digest a line."),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Print a new API key and its digest for --keys, and end.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Listen at an address that others reach although no key is asked for.")
    ] = False,
    max_texts: Annotated[int, typer.Option(min=1, help="Most texts of one request.")] = 2048,
    max_queued: Annotated[int, typer.Option(min=1, help="Most texts that wait; more are answered with 429.")] = 16_384,
    document_max_length: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Cut documents there; by default the model's maximum.")
    ] = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> int:
    """Serve a model over HTTP: every head of a text from one forward pass, for whoever asks.

    SIGTERM or Ctrl-C ends it when the requests that are being answered are.
    """
    from m3plugins.serving.options import ServiceOptions, check_host, digest, read_keys

    if new_key:
        key = secrets.token_urlsafe(32)
        print_json({"key": key, "digest": digest(key)}) if as_json else say(f"key     {key}\ndigest  {digest(key)}")
        return 0
    with calls(FileNotFoundError):
        known = frozenset[str]() if keys is None else read_keys(keys)
        check_host(host, known, public=public)
        options = ServiceOptions(keys=known, max_texts=max_texts, max_queued=max_queued)
    from m3plugins.serving.running import run

    encoder = load_encoder(model, dtype, document_max_length=document_max_length)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run(encoder, options, host=host, port=port)
