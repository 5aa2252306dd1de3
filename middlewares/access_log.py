"""Access log: one JSON line an exchange, when it has ended, however it ended.

Reads    method and path of the scope (never the query string), the status sent, the Exchange.
Writes   one line to ``log``.
Raises   nothing of its own; what the app raises is logged as status 500 and goes on.
Place    above ErrorMap, to see the final status; below RequestID, to know the id.
Source   499: nginx, ngx_http_request.h, NGX_HTTP_CLIENT_CLOSED_REQUEST. The field names
         follow the seed's log lines (``request_id``, ``duration_ms``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

import attrs
import msgspec

from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.logs import ACCESS_LOGGER, Line, bounded, write_line
from llmgw.stack import Place
from llmgw.telemetry import tell_error, tell_run

PLACE = Place(
    below={"RequestID": "a line without the id cannot be linked to its others"},
    above={"ErrorMap": "below it the final status of an error is not known"},
)

_logger = logging.getLogger(ACCESS_LOGGER)


def describe(scope: Scope, exchange: Exchange, status: int, error: BaseException | None) -> Line:
    """The line for an exchange that has ended."""
    line = Line(
        event="http_request",
        request_id=bounded(exchange.request_id) or exchange.id,
        method=bounded(scope["method"]),
        path=exchange.path or bounded(scope["path"]),
        status=status,
        duration_ms=round((perf_counter() - exchange.started_at) * 1000, 2),
        model=exchange.model,  # read_call has seen it: it is short and safe
        key=exchange.key,
    )
    if exchange.answer is not None:
        tell_run(line, exchange.answer)
    told = exchange.error or error
    if isinstance(told, Exception):
        tell_error(line, told)
    return line


@attrs.frozen
class AccessLogMiddleware:
    """Log every exchange once, after its end: by ``log``, else the logger ``llmgw.access``."""

    app: ASGIApp
    log: Callable[[bytes], None] | None = attrs.field(default=None, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        error: BaseException | None = None
        try:
            await self.app(scope, receive, send)
        except BaseException as exc:
            error = exc
            raise
        finally:
            line = describe(scope, exchange, exchange.final_status(error), error)
            if self.log is None:
                write_line(_logger, line)
            else:
                self.log(msgspec.json.encode(line))
            del error  # its traceback holds this frame: a cycle, with all of the request
