"""A FastAPI service with four layers of llmgw around handlers of its own.

Run it:  uvicorn fastapi_service:app --port 8001
Needs:   pip install "llmgw[metrics]" fastapi uvicorn
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.routing import Route

from llmgw.apps.metrics import metrics_app
from llmgw.errors import InvalidRequestError, ProviderUnavailableError
from llmgw.exchange import attempt_of
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.metrics import MetricsMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.retrying import RetryPolicy

registry = CollectorRegistry()
app = FastAPI(
    middleware=[  # outermost first
        Middleware(RequestIDMiddleware),  # every response below carries the id
        Middleware(MetricsMiddleware, registry=registry),  # counts errors as the client got them
        Middleware(ErrorMapMiddleware),  # the only writer of GatewayErrors
        Middleware(RetryMiddleware, policy=RetryPolicy(attempts=3, backoff=0.05), max_body=1 << 20),
    ]
)
# A Route, not mount(): a mounted app answers /metrics with a redirect to /metrics/.
app.routes.append(Route("/metrics", metrics_app(registry)))

tell, told = anyio.create_memory_object_stream[str](10)


@app.post("/shaky")
async def shaky(request: Request) -> dict[str, Any]:
    """Fail twice, then answer: Retry sends the same body again."""
    number = attempt_of(request.scope).number
    question = await request.json()
    if number == 1:
        raise ProviderUnavailableError("The upstream broke off.", provider="own")
    if number == 2:
        raise HTTPException(503, "not yet")
    return {"attempt": number, "question": question}


@app.post("/refuse")
async def refuse() -> None:
    """Raise an error of llmgw: the client gets OpenAI's error body."""
    raise InvalidRequestError("This model takes no images.", param="messages[0].content")


@app.get("/stream")
async def stream() -> StreamingResponse:
    """Stream words as they come in at ``POST /tell``, until "end"; "cut" breaks the stream."""

    async def words() -> AsyncIterator[bytes]:
        yield b"data: ready\n\n"
        while (word := await told.receive()) != "end":
            if word == "cut":
                raise ProviderUnavailableError("The upstream broke off.", provider="own")
            yield f"data: {word}\n\n".encode()
        yield b"data: [DONE]\n\n"

    return StreamingResponse(words(), media_type="text/event-stream")


@app.post("/tell/{word}")
async def tell_word(word: str) -> None:
    """Give the stream its next word."""
    await tell.send(word)
