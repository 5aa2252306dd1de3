"""Upstream: the HTTP client, on asyncio and on trio: a pool of connections, and one request on one.

No redirects are followed, nothing is decompressed, proxies and trust come from the environment.
Errors leave as ours. Without I/O: http1.py; the connections: transport.py.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

import anyio
import attrs

from llmgw import errors, http1, transport
from llmgw._concurrency.block import Expired
from llmgw.asgi import Header
from llmgw.errors import ProviderUnavailableError
from llmgw.http1 import ProtocolError
from llmgw.portal import running_loop
from llmgw.transport import Connection, Origin

CONNECTIONS = 1000  # as many as exchanges by default
IDLE = 30.0  # seconds a kept connection may rest; below the 60 s of common load balancers
WAYS = 1000  # beginnings of requests that are kept: clients may make up names; chosen
NETWORK = (OSError, ProtocolError)


class StaleConnectionError(ProviderUnavailableError):
    """A kept connection ended before a byte of the answer: mostly it was closed while it rested.

    The caller may send the request once more; the next goes by a new connection.
    """


@attrs.frozen
class Target:
    """A URL, taken apart once."""

    origin: Origin
    host: bytes  # the header
    path: bytes  # the request's target
    extra: bytes = b""  # header lines that a proxy which forwards wants to see


def target_of(url: str) -> Target:
    """Take a URL apart. Raises ValueError."""
    parts = urlsplit(url)
    origin = transport.origin_of(parts)
    default = origin.port == transport.PORTS[origin.scheme]
    name = f"[{origin.host}]" if ":" in origin.host else origin.host
    host = (name if default else f"{name}:{origin.port}").encode("ascii")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not origin.through or origin.proxy is None:
        return Target(origin, host, path.encode("ascii"))
    whole = b"http://" + host + path.encode("ascii")
    lines = http1.header_lines(transport.authorization(origin.proxy))
    return Target(origin, host, whole, lines)


class Response(http1.Response, eq=False, kw_only=True):
    """An open response, with the connection that it comes by; ``name`` is the upstream's."""

    name: str
    connection: Connection
    pool: Pool
    _open: bool = True

    async def more(self, due: float = math.inf) -> None:
        """Wait until more has come, or all. Raises ProviderUnavailableError, Expired."""
        try:
            await self.connection.pull(due)
        except NETWORK as exc:
            raise broke(self.name) from exc

    async def read(self, due: float = math.inf) -> bytes:
        """The next piece of the body, b"" at its end. Raises ProviderUnavailableError, Expired."""
        while not self.pieces and not self.complete:
            await self.more(due)
        return self.take()

    async def read_all(self, limit: int, due: float = math.inf) -> bytes:
        """The rest of the body. Raises Expired, ProviderUnavailableError also beyond ``limit``."""
        parts = [self.take()]
        size = len(parts[0])
        while not self.complete and size <= limit:
            await self.more(due)
            parts.append(self.take())
            size += len(parts[-1])
        if size > limit:
            raise ProviderUnavailableError(f"{self.name} sent too much.", provider=self.name)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self) -> bool:
        """Keep the connection, if the body has been read to its end; else False."""
        if self._open and self.keep_alive and not self.pieces:
            self._open = not self.pool.keep(self.connection)
        return not self._open

    async def aclose(self) -> None:
        """Close the connection, or keep it when the body has been read to its end."""
        if not self.release():
            self._open = False
            await self.pool.drop(self.connection)


def broke(name: str) -> ProviderUnavailableError:
    """What happened stays inside: the words of a network error may hold addresses."""
    return ProviderUnavailableError(f"The connection to {name} broke.", provider=name)


@attrs.define(eq=False)
class Pool:
    """The connections to one origin: the freshest is used first, the old ones fall out."""

    origin: Origin
    limit: int = CONNECTIONS
    idle: deque[tuple[Connection, float]] = attrs.field(factory=deque[tuple[Connection, float]])
    open: int = 0
    closed: bool = False  # what is given back is not kept
    waiting: deque[anyio.Event] = attrs.field(factory=deque[anyio.Event])

    def freshest(self) -> Connection | None:
        """The connection that was given back last, if it still stands."""
        return None if not self.idle or self.idle[-1][0].stale() else self.idle.pop()[0]

    async def take(self) -> Connection | None:
        """A kept connection that still stands, None when there is none."""
        while self.idle:
            connection, _ = self.idle.pop()
            if not connection.stale():
                return connection
            await self.drop(connection)
        return None

    async def make(self) -> tuple[Connection, bool]:
        """A new connection, or the next that is given back; and whether it is new.

        Raises OSError, ProtocolError.
        """
        while self.open >= self.limit:
            room = anyio.Event()
            self.waiting.append(room)
            try:
                await room.wait()
            except BaseException:
                if room.is_set():
                    self._wake()  # it was for the next in the line, then
                else:
                    self.waiting.remove(room)
                raise
            if (kept := await self.take()) is not None:
                return kept, False
        self.open += 1
        try:
            return await transport.connect(self.origin), True
        except BaseException:
            self._gone()
            raise

    def keep(self, connection: Connection) -> bool:
        """Take a connection back; False: there is no use for it."""
        if self.closed:
            return False
        connection.response = None
        self.idle.append((connection, time.monotonic()))
        self._wake()
        return True

    async def drop(self, connection: Connection) -> None:
        """Close a connection; a response that was on its way on it is given up."""
        if connection.response is not None:
            connection.response.give_up()
        connection.response = None
        self._gone()
        await connection.aclose()

    async def expire(self) -> None:
        """Close what has rested too long."""
        oldest = time.monotonic() - IDLE
        while self.idle and self.idle[0][1] < oldest:
            await self.drop(self.idle.popleft()[0])

    async def clear(self) -> None:
        """Close what rests."""
        while self.idle:
            await self.drop(self.idle.pop()[0])

    async def aclose(self) -> None:
        """Close what rests; what is in use is closed when it is given back."""
        self.closed = True
        await self.clear()

    def _gone(self) -> None:
        self.open -= 1
        self._wake()

    def _wake(self) -> None:
        if self.waiting:
            self.waiting.popleft().set()


@attrs.define(eq=False)
class Upstream:
    """Pools of connections, opened on first use. In another event loop it begins anew."""

    connect: float = 5.0  # seconds
    connections: int = CONNECTIONS  # at once to one origin
    _loop: object = attrs.field(default=None, init=False)  # whose the connections are
    _pools: dict[Origin, Pool] = attrs.field(factory=dict[Origin, Pool], init=False)
    _ways: dict[tuple[str, str, bytes], tuple[bytes, Pool]] = attrs.field(
        factory=dict[tuple[str, str, bytes], tuple[bytes, Pool]], init=False
    )  # method, URL, lines: how such a request begins, and by which connections it goes

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[Header] = (),
        lines: bytes = b"",
        body: bytes,
        name: str,
        due: float = math.inf,
    ) -> Response:
        """Send a request, wait for status and headers; ``name`` is the upstream's in errors.

        ``lines`` are headers that were written before, by ``http1.header_lines``; ``due`` is by
        ``time.monotonic()``. It is written to one connection. When that is a kept one and dies
        before a byte of the answer, those that rest beside it are closed too, because they are as
        old, and StaleConnectionError is raised.

        Raises StaleConnectionError, ConnectTimeoutError, ProviderUnavailableError, Expired.
        """
        self._settle()
        try:
            start, pool = self._ways.get((method, url, lines)) or self._way(method, url, lines)
            head = http1.request_head(start, http1.header_lines(headers), len(body))
        except (ValueError, ProtocolError) as exc:
            text = f"The address or a header for {name} is not valid."
            raise ProviderUnavailableError(text, provider=name) from exc
        if pool.idle and pool.idle[0][1] < time.monotonic() - IDLE:
            await pool.expire()
        connection, fresh = pool.freshest() or await pool.take(), False
        if connection is None:
            connection, fresh = await self._connect(pool, name, due)
        response = Response(name=name, connection=connection, pool=pool)
        connection.response = response
        try:
            if (flowing := connection.write(head + body, due)) is not None:
                await flowing
            while not response.ready:
                await connection.pull(due)
        except NETWORK as exc:
            try:
                if await answered(connection, response, due):
                    return response
            except BaseException:
                await pool.drop(connection)
                raise
            await pool.drop(connection)
            if fresh or response.begun:
                raise broke(name) from exc
            await pool.clear()
            text = f"A kept connection to {name} was closed."
            raise StaleConnectionError(text, provider=name) from exc
        except BaseException:
            await pool.drop(connection)
            raise
        return response

    async def aclose(self) -> None:
        """Close all connections; the next ``send`` opens new ones."""
        self._settle()
        pools = list(self._pools.values())
        self._pools.clear()
        self._ways.clear()
        for pool in pools:
            await pool.aclose()

    def _settle(self) -> None:
        """Forget the connections of another event loop: they have ended with it."""
        loop = running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._pools.clear()
            self._ways.clear()

    def _way(self, method: str, url: str, lines: bytes) -> tuple[bytes, Pool]:
        """Take a URL apart, once. Raises ValueError."""
        target = target_of(url)
        pool = self._pools.setdefault(target.origin, Pool(target.origin, self.connections))
        every = lines + target.extra
        start = http1.request_start(method.encode("ascii"), target.path, target.host, every)
        if len(self._ways) >= WAYS:
            self._ways.clear()
        way = self._ways[method, url, lines] = start, pool
        return way

    async def _connect(self, pool: Pool, name: str, due: float) -> tuple[Connection, bool]:
        left = due - time.monotonic()
        try:
            with anyio.move_on_after(min(self.connect, left)):
                return await pool.make()
        except NETWORK as exc:
            text = f"{name} cannot be reached."
            raise ProviderUnavailableError(text, provider=name) from exc
        if left < self.connect:
            raise Expired
        raise errors.ConnectTimeoutError(f"No connection to {name} in time.", provider=name)


async def answered(connection: Connection, response: Response, due: float) -> bool:
    """Whether the other side answered before it broke the connection, as servers do that refuse."""
    try:
        while not response.ready:
            await connection.pull(due)
    except NETWORK:
        return False
    return True
