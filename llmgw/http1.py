"""HTTP/1.1 as a client speaks it, without I/O: a request's head as bytes, a response from bytes.

httptools (llhttp, Node's parser) reads; what it does not do is here: limits, 1xx, bodies that end
with the connection, and whether a response is whole.

Source   RFC 9112. The limits are chosen; Node's own for a head is 16 KiB.
"""

from __future__ import annotations

from collections.abc import Iterable

import httptools
from msgspec import Struct

from llmgw.asgi import Header

HEAD_LIMIT = 64 << 10  # bytes of a response's head, the 1xx before it included
BODILESS = frozenset({204, 304})
SIZED = frozenset({b"content-length", b"transfer-encoding"})  # with one, a body tells its end


class ProtocolError(Exception):
    """What came is no HTTP/1.1 response."""


def header_lines(headers: Iterable[Header]) -> bytes:
    """Headers as they are sent. Raises ProtocolError."""
    lines: list[bytes] = []
    for name, value in headers:
        if b"\n" in value or b"\r" in value:
            raise ProtocolError("a header holds a line break")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def request_start(method: bytes, target: bytes, host: bytes, lines: bytes) -> bytes:
    """How a request begins: its first line, the host, header ``lines``."""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b" % (method, target, host, lines)


def request_head(start: bytes, lines: bytes, length: int) -> bytes:
    """The head of a request that begins with ``start`` and has a body of ``length`` bytes."""
    return b"%b%bcontent-length: %d\r\n\r\n" % (start, lines, length)


class Response(Struct, eq=False, kw_only=True):
    """One response as it comes: ``feed`` it bytes, ``take`` the body's.

    ``begun``: a byte has come. ``ready``: status and headers are there. ``complete``: all is.
    msgspec gives each its own lists.
    """

    status: int = 0
    headers: list[Header] = []  # names in lower case
    pieces: list[bytes] = []  # of the body, not yet taken
    size: int = 0  # bytes in ``pieces``
    begun: bool = False
    ready: bool = False
    complete: bool = False
    until_end: bool = False  # the body ends with the connection
    keep_alive: bool = False  # the connection can be used again
    _head: int = 0  # bytes until the head was complete
    _skipping: bool = False  # within a 1xx
    _parser: httptools.HttpResponseParser | None = None  # until the end: they hold each other

    def __post_init__(self) -> None:
        """Make the parser, which calls the methods below."""
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take bytes that came. Raises ProtocolError."""
        self.begun = True
        parser = self._parser
        if parser is None:
            self.keep_alive = False  # who sends more than it was asked for is not asked again
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if not self.complete:  # else it is what comes after the end
                raise ProtocolError(str(exc)) from exc
            self.keep_alive = False
        if self.complete:
            self._parser = None
        elif not self.ready:
            self._head += len(data)
            if self._head > HEAD_LIMIT:
                raise ProtocolError(f"the head is larger than {HEAD_LIMIT} bytes")

    def end(self) -> None:
        """The connection has ended. Raises ProtocolError when the response had not."""
        if self.until_end and self.ready:
            self.complete = True
            self._parser = None
        if not self.complete:
            raise ProtocolError("the connection ended before the response")

    def give_up(self) -> None:
        """No more of it is wanted."""
        self._parser = None

    def take(self) -> bytes:
        """The bytes of the body that have come since the last time."""
        pieces = self.pieces
        if not pieces:
            return b""
        self.size = 0
        if len(pieces) == 1:
            return pieces.pop()
        self.pieces = []
        return b"".join(pieces)

    # What httptools calls

    def on_message_begin(self) -> None:
        """A message begins; after the response there is none that we asked for."""
        if self.complete:
            raise ProtocolError("another response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self._skipping = True
            if status == 101:
                raise ProtocolError("an upgrade that nobody asked for")
            return
        self.status, self.ready = status, True
        self.until_end = SIZED.isdisjoint(dict(self.headers)) and status not in BODILESS

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""
        self.pieces.append(body)
        self.size += len(body)

    def on_message_complete(self) -> None:
        """A message is complete: the response, or a 1xx before it."""
        if self._skipping:
            self._skipping = False
            self.headers.clear()
        elif not self.until_end:
            self.complete = True
            assert self._parser is not None
            self.keep_alive = self._parser.should_keep_alive()
