"""Transport: a connection to an upstream, over TCP or TLS, straight or through a proxy.

Two of one face. On asyncio a Protocol, whose bytes go into the parser as they come: a stream over
it costs 30 us a request more (docs/decisions/0011). On any other loop, anyio's streams.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import ipaddress
import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.lowlevel
import attrs
from anyio.abc import ByteStream, SocketAttribute, TaskGroup
from anyio.streams.tls import TLSStream

from llmgw._concurrency.block import Block, Expired
from llmgw._concurrency.deadline import DeadlineWaiter
from llmgw.http1 import ProtocolError, Response, header_lines, request_head, request_start
from llmgw.names import names
from llmgw.portal import on_asyncio

PIECE = 64 << 10  # bytes read at once
HIGH = 256 << 10  # bytes of a body that wait to be taken; then reading pauses
PORTS = {"http": 80, "https": 443}
HAPPY_EYEBALLS = 0.25  # seconds until the next address is tried; RFC 8305


@attrs.frozen
class Origin:
    """Where to connect: a scheme, a host and a port, and the proxy on the way, if any."""

    scheme: str
    host: str
    port: int
    proxy: SplitResult | None = None

    @property
    def through(self) -> bool:
        """Whether requests go to the proxy, which forwards them; else they are tunnelled."""
        return self.proxy is not None and self.scheme == "http"


class Connection(Protocol):
    """An open connection; used by one request at a time.

    Its waits end at ``due`` (``time.monotonic()``) with Expired.
    """

    response: Response | None  # what incoming bytes are fed to

    def write(self, data: bytes, due: float = math.inf) -> Awaitable[None] | None:
        """Send; None: nothing to wait for. Raises OSError, Expired."""
        ...

    def pull(self, due: float = math.inf) -> Awaitable[None]:
        """Wait until more has been fed to the response, or all.

        Raises OSError, ProtocolError, Expired.
        """
        ...

    def stale(self) -> bool:
        """Whether a resting connection has been closed, or was told what nobody asked for."""
        ...

    async def aclose(self) -> None:
        """Close, at once; also when the caller is being cancelled."""
        ...


def origin_of(url: SplitResult) -> Origin:
    """The origin of a URL, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Raises ValueError."""
    if url.scheme not in PORTS or not url.hostname:
        raise ValueError("an upstream's address begins with http:// or https:// and has a host")
    host, port = url.hostname, url.port or PORTS[url.scheme]
    found = getproxies().get(url.scheme)
    if not found or proxy_bypass(host):
        return Origin(url.scheme, host, port)
    return Origin(url.scheme, host, port, urlsplit(found if "://" in found else f"http://{found}"))


def is_address(host: str) -> bool:
    """Whether a host is given by its number."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@functools.cache
def trust() -> ssl.SSLContext:
    """The system's certificates, and SSL_CERT_FILE's; made once, for it takes milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def authorization(proxy: SplitResult) -> list[tuple[bytes, bytes]]:
    """The header by which a proxy knows us, from the name and password in its URL."""
    if proxy.username is None:
        return []
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [(b"proxy-authorization", b"Basic " + base64.b64encode(pair.encode()))]


async def connect(origin: Origin) -> Connection:
    """Open a connection. Raises OSError, ProtocolError (a proxy that refuses)."""
    proxy = origin.proxy
    host, port = origin.host, origin.port
    if proxy is not None:
        host, port = proxy.hostname or "", proxy.port or PORTS.get(proxy.scheme, 80)
    connection = await open_tcp(host, port)
    try:
        if proxy is not None and proxy.scheme == "https":
            await connection.secure(host)
        if proxy is not None and not origin.through:
            await tunnel(connection, origin, proxy)
        if origin.scheme == "https":
            await connection.secure(origin.host)
    except BaseException:
        await connection.aclose()
        raise
    return connection


async def open_tcp(host: str, port: int) -> Fast | Slow:
    """Connect to the first of the host's addresses that answers. Raises OSError."""
    open_one = Fast.open if on_asyncio() else Slow.open
    if is_address(host):
        return await open_one(host, port)
    addresses = await names.addresses(host)
    try:
        if len(addresses) == 1:
            return await open_one(addresses[0], port)
        return await Race(open_one, port).run(addresses)
    except OSError:
        names.forget(host)
        raise


@attrs.define(eq=False)
class Race:
    """Several addresses of one host: the next is tried when one has failed, or takes too long."""

    open_one: Callable[[str, int], Awaitable[Fast | Slow]]
    port: int
    winner: Fast | Slow | None = None
    errors: list[OSError] = attrs.field(factory=list[OSError])
    failed: anyio.Event = attrs.field(factory=anyio.Event)

    async def run(self, addresses: Sequence[str]) -> Fast | Slow:
        """The first connection that is made. Raises the last OSError when there is none."""
        try:
            async with anyio.create_task_group() as tasks:
                for address in addresses:
                    self.failed = anyio.Event()
                    tasks.start_soon(self._try, address, tasks)
                    with anyio.move_on_after(HAPPY_EYEBALLS):
                        await self.failed.wait()
        except BaseException:
            if self.winner is not None:
                await self.winner.aclose()
            raise
        if self.winner is None:
            raise self.errors[-1]
        return self.winner

    async def _try(self, address: str, tasks: TaskGroup) -> None:
        try:
            made = await self.open_one(address, self.port)
        except OSError as exc:
            self.errors.append(exc)
            self.failed.set()
            return
        if self.winner is None:
            self.winner = made
            tasks.cancel_scope.cancel()
        else:
            await made.aclose()


async def tunnel(connection: Connection, origin: Origin, proxy: SplitResult) -> None:
    """Ask a proxy for a way to the origin. Raises OSError, ProtocolError."""
    target = f"{origin.host}:{origin.port}".encode()
    lines = header_lines(authorization(proxy))
    head = request_head(request_start(b"CONNECT", target, target, lines), b"", 0)
    response = connection.response = Response()
    if (flowing := connection.write(head)) is not None:
        await flowing
    while not response.ready:
        await connection.pull()
    connection.response = None
    if response.status != 200:
        raise ConnectionRefusedError(f"the proxy answered {response.status}")


class Fast(DeadlineWaiter, asyncio.Protocol):
    """A connection on asyncio."""

    __slots__ = ("_ended", "_error", "_full", "_odd", "_paused", "_transport", "response")

    def __init__(self) -> None:
        super().__init__()
        self.response: Response | None = None
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._ended = False
        self._odd = False  # bytes came while nothing was asked
        self._full = False  # what is to be sent waits
        self._paused = False

    @classmethod
    async def open(cls, address: str, port: int) -> Fast:
        """Connect to an address. Raises OSError."""
        return (await asyncio.get_running_loop().create_connection(cls, address, port))[1]

    async def secure(self, host: str) -> None:
        """Go on over TLS. Raises OSError (ssl.SSLError is one)."""
        assert self._transport is not None
        made = await self._loop.start_tls(self._transport, self, trust(), server_hostname=host)
        assert made is not None
        self._transport = made

    def write(self, data: bytes, due: float = math.inf) -> Awaitable[None] | None:
        """See Connection."""
        if self._ended:
            raise self._error or ConnectionResetError("the connection has ended")
        assert self._transport is not None
        self._transport.write(data)
        return self._flow(due) if self._full else None

    def pull(self, due: float = math.inf) -> Awaitable[None]:
        """See Connection."""
        if self._error is not None:
            raise self._error
        if self._ended:
            assert self.response is not None
            self.response.end()
            return nothing()
        if self._paused:
            assert self._transport is not None
            self._paused = False
            self._transport.resume_reading()
        return self.wait(due)

    def stale(self) -> bool:
        """See Connection."""
        return self._ended or self._odd or self._paused  # of one that is paused nothing is known

    async def aclose(self) -> None:
        """See Connection."""
        self._ended = True
        self._error = None  # the frames of its traceback hold this
        self.silence()
        if self._transport is not None:
            self._transport.abort()
            await anyio.lowlevel.cancel_shielded_checkpoint()  # the loop closes the socket

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        response = self.response
        if response is None:
            self._odd = True
            return
        try:
            response.feed(data)
        except ProtocolError as exc:
            self._error = exc
        if response.size > HIGH and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        waiter = self._waiter
        if waiter is not None and not self._full and not waiter.done():
            waiter.set_result(None)

    def eof_received(self) -> bool:
        """The other side sends no more."""
        self._ended = True
        self.wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._ended = True
        self._error = self._error or exc
        self._full = False
        self.silence()
        self.wake()

    def pause_writing(self) -> None:
        """What is to be sent does not flow off."""
        self._full = True

    def resume_writing(self) -> None:
        """It does again."""
        self._full = False
        self.wake()

    async def _flow(self, due: float) -> None:
        while self._full and not self._ended:
            await self.wait(due)


async def nothing() -> None:
    """Do not wait."""


@attrs.define(eq=False)
class Slow:
    """A connection on any other loop."""

    stream: ByteStream
    response: Response | None = None

    @classmethod
    async def open(cls, address: str, port: int) -> Slow:
        """Connect to an address. Raises OSError."""
        return cls(await anyio.connect_tcp(address, port))

    async def secure(self, host: str) -> None:
        """Go on over TLS. Raises OSError."""
        self.stream = await TLSStream.wrap(
            self.stream, hostname=host, ssl_context=trust(), standard_compatible=False
        )

    async def write(self, data: bytes, due: float = math.inf) -> None:
        """See Connection."""
        try:
            with Block(due - time.monotonic()):
                return await self.stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise ConnectionResetError("the connection broke") from exc
        raise Expired

    async def pull(self, due: float = math.inf) -> None:
        """See Connection."""
        assert self.response is not None
        try:
            with Block(due - time.monotonic()):
                return self.response.feed(await self.stream.receive(PIECE))
        except anyio.EndOfStream:
            return self.response.end()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise ConnectionResetError("the connection broke") from exc
        raise Expired

    def stale(self) -> bool:
        """See Connection: nothing must be there to read."""
        try:
            raw = self.stream.extra(SocketAttribute.raw_socket)
            raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    async def aclose(self) -> None:
        """See Connection."""
        await anyio.aclose_forcefully(self.stream)
