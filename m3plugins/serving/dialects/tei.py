"""The embedding routes of text-embeddings-inference (TEI): dense and sparse."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict

from m3plugins.encoding.output import Head, M3Output
from m3plugins.serving.batcher import Kind
from m3plugins.serving.service import Service


class EmbedRequest(BaseModel):
    """Texts to embed; `prompt_name` says how they are to be encoded."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"inputs": ["a fox"]}]})

    inputs: str | list[str]
    prompt_name: Kind | None = None
    truncate: bool | None = None
    normalize: Literal[True] = True


def tei_router(service: Service) -> APIRouter:
    """Makes the routes of the dialect."""
    router = APIRouter(tags=["TEI"])

    async def encode(request: Request, body: EmbedRequest, head: Head) -> M3Output:
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        output = await service.encode(request, body.prompt_name or "document", texts, [head])
        if body.truncate is False and output.truncated.any():
            first = int(output.truncated.argmax())
            raise HTTPException(413, f"inputs[{first}] is longer than the model's maximum; leave out truncate: false")
        return output

    @router.post("/embed", response_model=list[list[float]])
    async def embed(request: Request, body: EmbedRequest) -> Response:
        """Embeds texts as dense vectors of unit length; texts that are too long are cut unless `truncate` is false."""
        output = await encode(request, body, "dense")
        return Response(await asyncio.to_thread(_dense, output), media_type="application/json")

    @router.post("/embed_sparse", response_model=list[list[dict[str, float]]])
    async def embed_sparse(request: Request, body: EmbedRequest) -> Response:
        """Embeds texts as lists of token ids (`index`) with their weights (`value`)."""
        output = await encode(request, body, "sparse")
        return Response(await asyncio.to_thread(_sparse, output), media_type="application/json")

    return router


def _dense(output: M3Output) -> bytes:
    assert output.dense is not None
    return json.dumps(output.dense.tolist()).encode()


def _sparse(output: M3Output) -> bytes:
    assert output.sparse is not None
    rows = [output.sparse[row].to_dict() for row in range(len(output))]
    return json.dumps([[{"index": i, "value": float(w)} for i, w in row.items()] for row in rows]).encode()
