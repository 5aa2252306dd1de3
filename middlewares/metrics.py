"""Metrics: what the client got, how long it took and how many tokens, for Prometheus.

Reads    the method, the status sent, the Exchange.
Writes   the five families of series.py in ``registry``; every label value comes from a bounded set.
Raises   nothing of its own; what the app raises counts as status 500 and goes on.
Place    above ErrorMap, to count errors as the client got them.
Source   the names and buckets are telemetry.py's table. 499: nginx, NGX_HTTP_CLIENT_CLOSED_REQUEST.
"""

from __future__ import annotations

import attrs
from prometheus_client import REGISTRY, CollectorRegistry

from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.series import BATCH, CHILDREN, OTHER, Families, Tally, families_of
from llmgw.stack import Place

PLACE = Place(
    below={"RequestID": "nothing may answer outside of the id"},
    above={"ErrorMap": "below it the final status of an error is not known"},
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@attrs.frozen
class MetricsMiddleware:
    """Count and time every exchange."""

    app: ASGIApp
    models: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    registry: CollectorRegistry = attrs.field(default=REGISTRY, kw_only=True)
    _found: Families = attrs.field(
        default=attrs.Factory(lambda self: families_of(self.registry), takes_self=True),
        init=False,
        repr=False,
    )

    _tallies: dict[tuple[object, ...], Tally] = attrs.field(
        factory=dict[tuple[object, ...], Tally], init=False, repr=False
    )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        error: BaseException | None = None
        active = self._found.active.note
        active(1)
        try:
            await self.app(scope, receive, send)
        except BaseException as exc:
            error = exc
            raise
        finally:
            active(-1)
            self._count(scope["method"], exchange, exchange.final_status(error))
            del error  # its traceback holds this frame: a cycle, with all of the request

    def _count(self, method: str, exchange: Exchange, status: int) -> None:
        found, attempt = self._found, exchange.answer
        name = attempt.provider if attempt else exchange.error.provider if exchange.error else None
        told = (method, exchange.path, status, name, exchange.model)
        tally = self._tallies.get(told) or self._tally(*told)
        tally.count(exchange)
        found.noted += 1
        if found.noted >= BATCH:
            found.settle()

    def _tally(
        self, method: str, path: str | None, status: int, name: str | None, model: str | None
    ) -> Tally:
        found = self._found
        known, provider = method if method in METHODS else OTHER, found.bound_provider(name)
        served = "none" if model is None else model if model in self.models else OTHER
        tally = found.tally(known, path or OTHER, str(status), provider, served)
        if OTHER not in (known, provider, served) and len(self._tallies) < CHILDREN:
            self._tallies[method, path, status, name, model] = tally  # all of bounded sets
        return tally
