"""The table of paths: which app answers where, and to which methods."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.errors import InvalidRequestError, NotFoundError
from llmgw.exchange import EXCHANGE, Exchange


@attrs.frozen
class Route:
    """What serves a path: an app, and the methods it knows."""

    app: ASGIApp
    methods: frozenset[str]


GET, POST = frozenset({"GET", "HEAD"}), frozenset({"POST"})


@attrs.frozen
class Table:
    """Path -> app. What is not listed is 404; a path that ends in ``/*`` covers all below it."""

    routes: Mapping[str, Route]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange by the app of its path. Raises NotFoundError, or a 405."""
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008, "reason": "not served"})
        template: str = scope["path"]
        route = self.routes.get(template)
        if route is None:
            template, route = self._above(template)
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is not None:
            exchange.path = template
        method: str = scope["method"]
        if method not in route.methods:
            if exchange is not None:
                exchange.headers[b"allow"] = ", ".join(sorted(route.methods)).encode()
            message = f"The method {method[:16]!r} is not allowed here."
            raise InvalidRequestError(message, status=405, code="method_not_allowed")
        await route.app(scope, receive, send)

    def _above(self, path: str) -> tuple[str, Route]:
        """The nearest ``/*`` that covers a path."""
        while True:
            path = path.rpartition("/")[0]
            if route := self.routes.get(f"{path}/*"):
                return f"{path}/*", route
            if not path:
                raise NotFoundError("There is nothing at this path.", code="not_found")
