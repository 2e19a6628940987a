"""OpenAI's embeddings API: dense vectors, for the clients that speak it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Literal

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict

from m3plugins.encoding.output import M3Output
from m3plugins.serving.batcher import Kind
from m3plugins.serving.service import Service

Format = Literal["float", "base64"]


class EmbeddingsRequest(BaseModel):
    """Texts to embed; `input_type` is this service's own, and says how they are to be encoded."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "m3", "input": ["a fox"], "input_type": "query"}]}
    )

    input: str | list[str] | list[int] | list[list[int]]
    model: str = ""
    encoding_format: Format = "float"
    dimensions: int | None = None
    user: str | None = None
    input_type: Kind = "document"


def openai_router(service: Service) -> APIRouter:
    """Makes the routes of the dialect."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/embeddings")
    async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
        """Embeds documents, or queries where `input_type` says so, as dense vectors of the model that is served.

        `model` and `user` change nothing; the answer names the model.
        """
        texts = [body.input] if isinstance(body.input, str) else [text for text in body.input if isinstance(text, str)]
        if not isinstance(body.input, str) and len(texts) < len(body.input):
            raise HTTPException(
                422,
                "input must be texts, got token ids; in LangChain set check_embedding_ctx_length=False",
            )
        if body.dimensions is not None:
            dim = await asyncio.to_thread(lambda: service.encoder.dim)
            if body.dimensions != dim:
                raise HTTPException(
                    422, f"dimensions must be {dim}, the model's own, or left out, got {body.dimensions}"
                )
        output = await service.encode(request, body.input_type, texts, ["dense"])
        answer = await asyncio.to_thread(_to_json, output, service.encoder.name, body.encoding_format)
        return Response(answer, media_type="application/json")

    return router


def _to_json(output: M3Output, model: str, encoding: Format) -> bytes:
    assert output.dense is not None
    rows = output.dense.astype("<f4", copy=False)
    vectors = rows.tolist() if encoding == "float" else [base64.b64encode(row.tobytes()).decode() for row in rows]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    tokens = int(output.token_counts.sum())
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "model": model, "data": data, "usage": usage}).encode()
