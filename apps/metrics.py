"""The metrics app: ``GET /metrics`` for Prometheus, as text or OpenMetrics by the Accept header.

Reads    the request header ``accept``.
Writes   the exposition; nothing else.
Raises   nothing.
"""

from __future__ import annotations

import functools

import anyio.to_thread
import attrs
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from llmgw.asgi import Receive, Scope, Send, find_header, respond


@attrs.frozen
class MetricsApp:
    """Render a registry; with ``multiprocess`` (PROMETHEUS_MULTIPROC_DIR) that of all workers."""

    registry: CollectorRegistry = REGISTRY
    multiprocess: str | None = attrs.field(default=None, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        accept = (find_header(scope["headers"], b"accept") or b"").decode("latin-1")
        encode, kind = choose_encoder(accept)
        # In a thread: a thousand series take milliseconds, files of many workers longer.
        body = await anyio.to_thread.run_sync(functools.partial(encode, self._collect()))
        head = scope["method"] == "HEAD"
        await respond(send, 200, b"" if head else body, content_type=kind.encode())

    def _collect(self) -> CollectorRegistry:
        if self.multiprocess is None:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self.multiprocess)  # type: ignore[no-untyped-call]
        return registry


def metrics_app(
    registry: CollectorRegistry = REGISTRY, *, multiprocess: str | None = None
) -> MetricsApp:
    """The app for a registry."""
    return MetricsApp(registry, multiprocess=multiprocess)
