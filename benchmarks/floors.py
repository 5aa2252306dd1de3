"""Floors: apps that do less than a gateway must, to see what is left for it. Run by uvicorn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from llmgw.asgi import BODY, START, Receive, Scope, Send
from llmgw.upstream import Upstream

if TYPE_CHECKING:
    import aiohttp
    from starlette.requests import Request
    from starlette.responses import Response

URL = os.environ.get("BENCH_UPSTREAM", "http://127.0.0.1:9000/v1") + "/chat/completions"
ANSWER = b"x" * 1000
JSON = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]

_upstream = Upstream()
_session: aiohttp.ClientSession | None = None


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without an upstream."""
    if scope["type"] == "http":
        await receive()
        await send({"type": START, "status": 200, "headers": JSON})
        await send({"type": BODY, "body": ANSWER})


async def body_of(receive: Receive) -> bytes:
    """The request's body."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Send bytes on by llmgw's own HTTP client, look at nothing."""
    if scope["type"] != "http":
        return
    body = await body_of(receive)
    found = await _upstream.send(
        "POST", URL, headers=[(b"content-type", b"application/json")], body=body, name="upstream"
    )
    kind = [pair for pair in found.headers if pair[0] == b"content-type"]
    await send({"type": START, "status": found.status, "headers": kind})
    while piece := await found.read():
        await send({"type": BODY, "body": piece, "more_body": True})
    await send({"type": BODY, "body": b""})
    await found.aclose()


async def by_aiohttp(scope: Scope, receive: Receive, send: Send) -> None:
    """Send bytes on by aiohttp, look at nothing."""
    import aiohttp

    global _session
    if scope["type"] != "http":
        return
    _session = _session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    headers = {"content-type": "application/json"}
    async with _session.post(URL, data=await body_of(receive), headers=headers) as found:
        kind = found.headers["content-type"].encode()
        await send({"type": START, "status": found.status, "headers": [(b"content-type", kind)]})
        async for piece in found.content.iter_any():
            await send({"type": BODY, "body": piece, "more_body": True})
        await send({"type": BODY, "body": b""})


def make_starlette_with_litellm() -> Any:
    """What one writes first: a Starlette route around ``litellm.acompletion``."""
    import json
    from collections.abc import AsyncGenerator

    import litellm
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    base = URL.removesuffix("/chat/completions")

    async def complete(request: Request) -> Response:
        asked = await request.json()
        asked["model"] = "openai/m"
        answer: Any = await litellm.acompletion(**asked, api_base=base, api_key="sk-bench")
        if not asked.get("stream"):
            return JSONResponse(answer.model_dump())

        async def events() -> AsyncGenerator[str]:
            async for chunk in answer:
                yield f"data: {json.dumps(chunk.model_dump(exclude_none=True))}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
