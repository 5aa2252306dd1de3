"""Upstream: the HTTP client behind one small face, on asyncio and on trio.

No redirects are followed, nothing is decompressed, proxies come from the environment. Errors leave
as ours. ``httpx2`` is behind it for now and nothing above knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import attrs
import httpx2

from llmgw import errors
from llmgw.asgi import Header
from llmgw.errors import GatewayError, ProviderUnavailableError

CONNECTIONS = 1000  # at once to all upstreams; as many as exchanges by default
IDLE = 30.0  # seconds a kept connection may rest; below the 60 s of common load balancers


def translate(exc: Exception, name: str) -> GatewayError:
    """The client library's error as ours; its own words may hold addresses and stay inside."""
    if isinstance(exc, httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return errors.ConnectTimeoutError(f"No connection to {name} in time.", provider=name)
    if isinstance(exc, httpx2.TimeoutException):
        return errors.TimeoutError(f"{name} did not answer in time.", provider=name)
    if isinstance(exc, httpx2.ConnectError):
        return ProviderUnavailableError(f"{name} cannot be reached.", provider=name)
    return ProviderUnavailableError(f"The connection to {name} broke.", provider=name)


@attrs.define
class Response:
    """An open response: ``status``, ``headers`` (lower case), and the body by pieces."""

    status: int
    headers: dict[str, str]
    name: str
    _response: httpx2.Response
    _pieces: AsyncIterator[bytes] = attrs.field(
        default=attrs.Factory(lambda self: self._response.aiter_raw(), takes_self=True), init=False
    )

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises ProviderUnavailableError."""
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except (httpx2.HTTPError, OSError) as exc:
            raise translate(exc, self.name) from exc
        return b""

    async def read_all(self, limit: int) -> bytes:
        """The rest of the body. Raises ProviderUnavailableError, also beyond ``limit`` bytes."""
        parts: list[bytes] = []
        size = 0
        while piece := await self.read():
            parts.append(piece)
            size += len(piece)
            if size > limit:
                raise ProviderUnavailableError(f"{self.name} sent too much.", provider=self.name)
        return b"".join(parts)

    async def aclose(self) -> None:
        """Close the connection, or keep it when the body has been read to its end."""
        await self._response.aclose()
        # httpx2 nests generators and closes the outermost only: reading on, from the closed
        # connection, ends them all.
        with suppress(httpx2.HTTPError, httpx2.StreamError, OSError):
            async for _ in self._pieces:
                pass


@attrs.define(eq=False)
class Upstream:
    """A pool of connections, opened on first use."""

    connect: float = 5.0  # seconds
    _client: httpx2.AsyncClient | None = attrs.field(default=None, init=False)

    async def send(
        self, method: str, url: str, *, headers: Sequence[Header], body: bytes, name: str
    ) -> Response:
        """Send a request, wait for status and headers; ``name`` is the upstream's in errors.

        Raises ConnectTimeoutError, ProviderUnavailableError.
        """
        if self._client is None:
            limits = httpx2.Limits(max_connections=CONNECTIONS, keepalive_expiry=IDLE)
            timeout = httpx2.Timeout(None, connect=self.connect, pool=self.connect)
            self._client = httpx2.AsyncClient(
                limits=limits, timeout=timeout, follow_redirects=False
            )
            self._client.headers.clear()
        try:
            request = self._client.build_request(method, url, headers=list(headers), content=body)
            response = await self._client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
            raise translate(exc, name) from exc
        return Response(response.status_code, dict(response.headers), name, response)

    async def aclose(self) -> None:
        """Close all connections; the next ``send`` opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
