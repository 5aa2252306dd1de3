"""Body: a request body read once, itself the ``receive`` for the app within; and the client watch.

What has been read travels in ``receive``: a layer that wraps ``receive`` forces a new reading, so
nobody below it can see the old bytes; a layer that hands a Body on costs the next reader nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
from msgspec import Struct

from llmgw._concurrency.background import Background, Function
from llmgw.asgi import Message, Receive
from llmgw.errors import InvalidRequestError
from llmgw.exchange import Exchange, inner_receive

T = TypeVar("T")
GRACE = 0.05  # seconds until the watch listens; most answers are quicker


class Body(Struct, eq=False):
    """What was read of a body, and the ``receive`` that has the rest of the exchange.

    ``complete``: all of it is in ``data``. ``overflow``: more than the limit came; the rest is
    still in the source. ``left``: the client went away. Each ``replay()`` gives the bytes anew, to
    a run of the app whose response has its own ``end()``: after it, as after any, comes a
    disconnect.
    """

    data: bytes
    complete: bool
    overflow: bool
    source: Receive
    left: bool = False
    watched: bool = False
    given: bool = False
    over: bool = False
    _news: anyio.Event | None = None  # made by who waits for left or over
    _decoded: dict[object, Any] = {}  # each Struct has its own

    async def __call__(self) -> Message:
        """Be a ``receive``: the bytes read so far in one message, then the source."""
        if not self.given:
            self.given = True
            return {"type": "http.request", "body": self.data, "more_body": not self.complete}
        while self.watched and not (self.left or self.over):  # the watcher alone reads the source
            self._news = self._news or anyio.Event()
            await self._news.wait()
        if self.left or self.over:  # hypercorn tells of a disconnect only once
            return {"type": "http.disconnect"}
        message = await self.source()
        self.left = message["type"] == "http.disconnect"
        return message

    def end(self) -> None:
        """The response of this run is complete: an app that listens on hears of a disconnect."""
        self.over = True
        self.tell()

    def tell(self) -> None:
        """Wake who waits for ``left`` or ``over``."""
        if self._news is not None:
            self._news.set()
            self._news = None

    def replay(self) -> Body:
        """The same body for a further attempt: its bytes are given again."""
        self.given = self.over = False
        return self

    def forget(self) -> None:
        """Drop the bytes and what was decoded of them: they have been answered, nothing runs again.

        For the app that has read them: to whoever asks later they count as given.
        """
        self.data, self.complete, self.given = b"", False, True
        self._decoded = {}

    def decode(self, decoder: Callable[[bytes], T]) -> T:
        """``decoder(data)``, run once however many layers ask."""
        found: T | None = self._decoded.get(decoder)
        if found is None:
            found = self._decoded[decoder] = decoder(self.data)
        return found

    async def watch(
        self,
        exchange: Exchange,
        main: Callable[[], Awaitable[None]],
        *,
        beside: Function | None = None,
        after: float = 0.0,
    ) -> None:
        """Run main until the client leaves, ``beside`` from ``after`` seconds on. See Watch."""
        if beside is None and (self.watched or not self.complete):
            return await main()
        async with watching(self, exchange, [] if beside is None else [(after, beside)]):
            await main()


def watching(
    body: Body, exchange: Exchange, functions: Sequence[tuple[float, Function]] = ()
) -> Watch:
    """The Watch of a body, with ``functions`` that run beside it, each from some time on."""
    watch = Watch(functions, exchange.block, body=body, exchange=exchange)
    if body.complete and not body.watched:
        body.watched = watch.listens = True
        watch.functions = [*functions, (GRACE, watch.listen)]
    return watch


class Watch(Background, kw_only=True):
    """``async with watching(body, exchange):`` ends when the client leaves.

    The outermost Watch of a Body is the only one that listens, and not before GRACE seconds have
    passed: most answers are quicker. A disconnect after the end of the response is none. When the
    client left, what runs inside is cancelled, ``exchange.left`` is True and nothing is raised.

    It shares the Block of the exchange, when a Drain around it has made one: then code goes on
    behind Drain's. Else it has its own, and code goes on behind this block.
    """

    body: Body
    exchange: Exchange
    listens: bool = False

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """End; that the client left stays here."""
        if self.listens:
            self.body.watched = False
        swallowed = await super().__aexit__(kind, exc, tb)
        return swallowed or (exc is not None and self._excuses(exc))

    def fail(self, error: Exception) -> None:
        """See Background; an error that says no more than that the client left is none."""
        assert self.block is not None
        if self._excuses(error):
            self.block.cancel()
        else:
            super().fail(error)

    def _excuses(self, error: BaseException) -> bool:
        """An OSError, out of a ``send``, is a server's way to say that the client left."""
        if not (isinstance(error, OSError) and self.exchange.left):
            return False
        self.body.left = True
        self.body.tell()
        return True

    async def listen(self) -> None:
        """Read the source until it tells that the client left."""
        receive = inner_receive(self.body.source)
        while not self.body.left:
            message = await receive()
            self.body.left = message["type"] == "http.disconnect"
            await anyio.lowlevel.checkpoint()  # a source that never waits must not stop the loop
        if not self.exchange.ended:
            self.exchange.left = True
            assert self.block is not None
            self.block.cancel()
        self.body.tell()


def replayed(receive: Receive, limit: float) -> Body | None:
    """The Body that ``receive`` already is, given anew; None when it must be read.

    ``replayed(receive, limit) or await read_whole_body(receive, limit=limit)``, and the same with
    ``read_body``, spares all layers but the first a coroutine.
    """
    if isinstance(receive, Body) and receive.complete and len(receive.data) <= limit:
        receive.given = receive.over = False
        return receive
    return None


async def read_body(receive: Receive, *, limit: int) -> Body:
    """Read until the body ends, the client leaves, or more than ``limit`` bytes have come.

    A Body that is ``receive`` already is reused as it is, with its decoded form.
    """
    if isinstance(receive, Body) and (receive.complete or receive.overflow):
        return receive.replay()
    message = await receive()
    return _whole(message, receive, limit) or await _parts(message, receive, limit)


async def read_whole_body(receive: Receive, *, limit: int) -> Body:
    """A complete body, or InvalidRequestError 413 when it is larger than ``limit`` bytes.

    A client that left while sending gives an incomplete Body with ``left`` set.
    """
    if isinstance(receive, Body):
        body = replayed(receive, limit) or await read_body(receive, limit=limit)
    else:
        message = await receive()
        body = _whole(message, receive, limit) or await _parts(message, receive, limit)
    if body.overflow or len(body.data) > limit:
        text = f"The request body is larger than {limit} bytes."
        raise InvalidRequestError(text, status=413, code="request_too_large")
    return body


def _whole(message: Message, receive: Receive, limit: int) -> Body | None:
    """The body that is in one message, as most are."""
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    data = bytes(message.get("body", b""))
    return Body(data, True, len(data) > limit, receive)


async def _parts(message: Message, receive: Receive, limit: int) -> Body:
    """The body that begins with this message."""
    parts: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        if part := message.get("body", b""):
            parts.append(part)
            size += len(part)
        ended = not message.get("more_body", False)
        if ended or size > limit:
            return Body(b"".join(parts), ended, size > limit, receive)
        message = await receive()
    return Body(b"".join(parts), False, False, receive, left=True)
