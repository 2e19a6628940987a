"""The HTTP service: one model, every head from one forward pass, for whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

import m3plugins
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.encoding.wire import MEDIA_TYPE, to_bytes
from m3plugins.serving.batcher import Kind
from m3plugins.serving.dialects.openai import openai_router
from m3plugins.serving.dialects.tei import tei_router
from m3plugins.serving.middleware import Gate, refused
from m3plugins.serving.options import ServiceOptions
from m3plugins.serving.service import Service


class EncodeRequest(BaseModel):
    """Texts to encode."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"input": ["a fox"], "kind": "document", "heads": ["dense", "sparse"]}]},
    )

    input: str | list[str]
    kind: Kind = "document"
    heads: Annotated[list[Head], Field(min_length=1)] = list(HEADS)


class Embeddings(BaseModel):
    """The embeddings of one text; a head that was not asked for is null."""

    dense: list[float] | None
    sparse: dict[int, float] | None
    multi_vector: list[list[float]] | None
    token_count: int
    truncated: bool


class EncodeResponse(BaseModel):
    """The embeddings of the texts, in their order."""

    model: str
    fingerprint: str
    data: list[Embeddings]


def create_app(encoder: M3Encoder, options: ServiceOptions | None = None) -> FastAPI:
    """Makes the ASGI application of a model, for uvicorn or whatever runs one.

    Args:
        encoder: Encodes, as queries and documents are to be encoded: its lengths and prompts are the service's.
        options: The limits.
    """
    service = Service(encoder, options or ServiceOptions())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(encoder.warm_up)
        app.state.ready = True
        yield
        app.state.ready = False
        await asyncio.to_thread(service.batcher.close)

    app = FastAPI(
        title="m3plugins",
        version=m3plugins.__version__,
        summary=__doc__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.ready = False
    app.add_middleware(Gate, options=service.options, metrics=service.metrics)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, err: HTTPException) -> Response:
        return refused(err.status_code, str(err.detail), dict(err.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, err: RequestValidationError) -> Response:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in err.errors()[:5])
        return refused(422, faults)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tells that the process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        """Tells whether the model is in memory and requests are taken."""
        return JSONResponse({"status": "ready"}) if app.state.ready else refused(503, "the model is being loaded")

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts, in Prometheus' format."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/info")
    def info() -> dict[str, Any]:
        """Tells what a client needs to behave as the encoder itself does."""
        return describe(encoder) | {"max_texts": service.options.max_texts}

    @app.get("/v1/tokenizer")
    def tokenizer() -> Response:
        """Gives the model's tokenizer, as a `tokenizer.json`."""
        return Response(encoder.tokenizer.to_str(), media_type="application/json")

    @app.post("/v1/encode", response_model=EncodeResponse)
    async def encode(request: Request, body: EncodeRequest) -> Response:
        """Encodes queries or documents, on any heads, in one forward pass a text.

        The answer is JSON or, with `Accept: application/vnd.m3plugins.embeddings+safetensors`, a safetensors file.
        """
        texts = [body.input] if isinstance(body.input, str) else body.input
        output = await service.encode(request, body.kind, texts, body.heads)
        if MEDIA_TYPE in request.headers.get("accept", ""):
            return Response(await asyncio.to_thread(to_bytes, output), media_type=MEDIA_TYPE)
        return Response(await asyncio.to_thread(_to_json, output, encoder), media_type="application/json")

    app.include_router(openai_router(service))
    app.include_router(tei_router(service))
    return app


def describe(encoder: M3Encoder) -> dict[str, Any]:
    """Describes an encoder: what decides its vectors, their widths, and the lengths that texts are cut to."""
    return {
        "model": encoder.name,
        "fingerprint": encoder.fingerprint,
        "former_fingerprint": encoder.former_fingerprint,
        "description": dict(encoder.description),
        "settings": encoder.settings,
        "probes": dict(encoder.probes),
        "dim": encoder.dim,
        "multi_vector_dim": encoder.multi_vector_dim,
        "vocab_size": encoder.vocab_size,
        "query_max_length": encoder.query_max_length,
        "document_max_length": encoder.document_max_length,
        "prompts": {"query": encoder.prompts.query, "document": encoder.prompts.document},
    }


def _to_json(output: M3Output, encoder: M3Encoder) -> bytes:
    data = [
        Embeddings(
            dense=None if output.dense is None else output.dense[row].tolist(),
            sparse=None if output.sparse is None else output.sparse[row].to_dict(),
            multi_vector=None if output.multi_vector is None else output.multi_vector[row].tolist(),
            token_count=int(output.token_counts[row]),
            truncated=bool(output.truncated[row]),
        )
        for row in range(len(output))
    ]
    answer = EncodeResponse(model=encoder.name, fingerprint=encoder.fingerprint, data=data)
    return answer.model_dump_json().encode()
