"""Request id: every exchange carries one id, in the Exchange, in logs and on the response.

Reads    the request header ``x-request-id``, if its value is safe to repeat.
Writes   ``exchange.request_id``; the response header ``x-request-id`` and those of ``headers``; the
         context variable ``request_id`` for log records.
Raises   nothing.
Place    outermost, so that the response of any layer below carries the id.
Source   the name: openai-python reads ``x-request-id`` as ``_request_id`` (e43b4224,
         src/openai/_models.py). SAFE keeps line breaks and quotes out of logs; its length is
         chosen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import attrs

from llmgw.asgi import ASGIApp, Receive, Scope, Send, request_header
from llmgw.exchange import enter, new_id
from llmgw.stack import Place

OUTER = "answers of layers above would lack the id"
PLACE = Place(above=dict.fromkeys(("AccessLog", "Tracing", "Metrics", "ErrorMap"), OUTER))
SAFE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HEADER = b"x-request-id"

request_id: ContextVar[str | None] = ContextVar("llmgw_request_id", default=None)


@attrs.frozen
class RequestIDMiddleware:
    """Give every exchange an id: the client's if it is safe, else a new one.

    ``headers`` go on every response unless a layer below sets them otherwise.
    """

    app: ASGIApp
    generate: Callable[[], str] = attrs.field(default=new_id, kw_only=True)
    headers: Mapping[bytes, bytes] = attrs.field(factory=dict[bytes, bytes], kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        offered = request_header(scope, HEADER)
        if offered is not None and SAFE.fullmatch(offered):
            value = offered.decode("ascii")
        else:
            value = self.generate()
        exchange, scope, receive, send = enter(scope, receive, send)
        exchange.request_id = value
        exchange.headers.update(self.headers)
        exchange.headers[HEADER] = value.encode()
        token = request_id.set(value)
        try:
            await self.app(scope, receive, send)
        finally:
            request_id.reset(token)
