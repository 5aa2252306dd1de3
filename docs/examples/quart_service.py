"""A Quart service with four layers of llmgw around handlers of its own, on asyncio or on trio.

Run it:  uvicorn quart_service:app --port 8002
         SERVICE_LOOP=trio hypercorn -k trio --bind 127.0.0.1:8002 quart_service:app
Needs:   pip install "llmgw[metrics]" quart uvicorn   (trio: quart-trio hypercorn)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from quart import Quart, Request, Response, abort, request
from quart.asgi import ASGIHTTPConnection

from llmgw.asgi import Scope
from llmgw.errors import InvalidRequestError, ProviderUnavailableError
from llmgw.exchange import attempt_of
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.metrics import MetricsMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.retrying import RetryPolicy
from llmgw.stack import layer, stack


class CancellableConnection(ASGIHTTPConnection):
    """Quart's connection, whose tasks end with it: Quart before 0.23 leaves them running."""

    reader: asyncio.Task[Any] | None = None
    writer: asyncio.Task[Any] | None = None

    async def handle_messages(self, *args: Any) -> None:
        """Note the task that reads."""
        self.reader = asyncio.current_task()
        await super().handle_messages(*args)

    async def handle_request(self, request: Request, send: Any) -> None:
        """Note the task that answers."""
        self.writer = asyncio.current_task()
        await super().handle_request(request, send)

    async def __call__(self, receive: Any, send: Any) -> None:
        """Answer one exchange."""
        try:
            await super().__call__(receive, send)
        finally:
            for task in (self.reader, self.writer):
                if task is not None:
                    task.cancel()


if os.environ.get("SERVICE_LOOP") == "trio":
    from quart_trio import QuartTrio

    app: Quart = QuartTrio(__name__)
else:
    app = Quart(__name__)
    app.asgi_http_class = CancellableConnection

# Quart answers 500 for what a handler raises, unless it is told to let it out.
app.config["PROPAGATE_EXCEPTIONS"] = True

registry = CollectorRegistry()
tell, told = anyio.create_memory_object_stream[str](10)


@app.post("/shaky")
async def shaky() -> dict[str, Any]:
    """Fail twice, then answer: Retry sends the same body again."""
    number = attempt_of(cast(Scope, request.scope)).number
    question = await request.get_json()
    if number == 1:
        raise ProviderUnavailableError("The upstream broke off.", provider="own")
    if number == 2:
        abort(503)
    return {"attempt": number, "question": question}


@app.post("/refuse")
async def refuse() -> str:
    """Raise an error of llmgw: the client gets OpenAI's error body."""
    raise InvalidRequestError("This model takes no images.", param="messages[0].content")


@app.get("/stream")
async def stream() -> Response:
    """Stream words as they come in at ``POST /tell``, until "end"; "cut" breaks the stream."""

    async def words() -> AsyncIterator[bytes]:
        yield b"data: ready\n\n"
        while (word := await told.receive()) != "end":
            if word == "cut":
                raise ProviderUnavailableError("The upstream broke off.", provider="own")
            yield f"data: {word}\n\n".encode()
        yield b"data: [DONE]\n\n"

    response = Response(words(), content_type="text/event-stream")
    response.timeout = None  # Quart would end the stream after 60 s
    return response


@app.post("/tell/<word>")
async def tell_word(word: str) -> str:
    """Give the stream its next word."""
    await tell.send(word)
    return ""


@app.get("/metrics")
async def metrics() -> Response:
    """Give Prometheus the registry."""
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


app.asgi_app = stack(  # type: ignore[method-assign, assignment]  # Quart's own way to add ASGI middleware
    [
        layer(RequestIDMiddleware),  # every response below carries the id
        layer(MetricsMiddleware, registry=registry),  # counts errors as the client got them
        layer(ErrorMapMiddleware),  # the only writer of GatewayErrors
        layer(RetryMiddleware, policy=RetryPolicy(attempts=3, backoff=0.05), max_body=1 << 20),
    ],
    app.asgi_app,  # type: ignore[arg-type]  # hypercorn's types are narrower than ASGI's
)
