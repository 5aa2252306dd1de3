"""Server-sent events, split and joined. No I/O.

Source   html.spec.whatwg.org/multipage/server-sent-events.html, "Interpreting an event stream".
"""

from __future__ import annotations

import re

import attrs

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx buffers event streams unless told
]
COMMENT = b": keepalive\n\n"
EVENT_LIMIT = 16 << 20  # bytes of one event; an image as base64 is about 2 MB, chosen with room
BOM = b"\xef\xbb\xbf"  # UTF-8's byte order mark
LINE = re.compile(rb"\r\n|\n|\r")
START, END = b"data: ", b"\n\n"
BETWEEN = END + START


class EventTooLargeError(ValueError):
    """One event is larger than the limit."""


def join(payloads: list[bytes]) -> bytes:
    """The payloads as a stream of events: a ``data:`` line each, or one for each of its lines."""
    if not payloads:
        return b""
    joined = START + BETWEEN.join(payloads) + END
    if b"\r" in joined or joined.count(b"\n") != 2 * len(payloads):
        return START + BETWEEN.join([LINE.sub(b"\ndata: ", one) for one in payloads]) + END
    return joined


def plain(piece: bytes) -> list[bytes] | None:
    """The events of a piece that is nothing but whole ones of a line each; None: look closer.

    Nearly all that models send is so; to look at each line costs 2 us an event.
    """
    if not (piece.startswith(START) and piece.endswith(END)) or b"\r" in piece:
        return None
    events = piece[6:-2].split(BETWEEN)  # without START and END
    return events if piece.count(b"\n") == 2 * len(events) and b"" not in events else None


@attrs.define
class Splitter:
    """Cut a byte stream, in whatever pieces it comes, into the ``data`` of its events.

    Comments and empty events vanish; ``event``, ``id`` and ``retry`` lines are read over. ``limit``
    bounds the bytes of an event's data lines and of any other line.
    """

    limit: int = EVENT_LIMIT
    rest: list[bytes] = attrs.field(factory=list[bytes])  # the pieces of the unfinished line
    waiting: int = 0  # bytes in rest
    data: list[bytes] = attrs.field(factory=list[bytes])  # of the unfinished event
    size: int = 0  # bytes of its lines
    begun: bool = False  # past the place of a byte order mark
    clean: bool = False  # so, and nothing is unfinished
    returned: bool = False  # the last byte was a CR: an LF now belongs to it
    overflown: bool = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that ``piece`` completes. Raises EventTooLargeError, after those before it."""
        if self.overflown:
            raise EventTooLargeError
        if self.clean and len(piece) <= self.limit and (found := plain(piece)) is not None:
            return found
        if not self.begun:
            piece = b"".join(self.rest) + piece
            self.rest = []
            if len(piece) < len(BOM) and BOM.startswith(piece):
                self.rest = [piece] if piece else []
                return []
            self.begun = True
            piece = piece.removeprefix(BOM)
        if self.returned and piece:
            self.returned = False
            piece = piece.removeprefix(b"\n")
        if b"\r" in piece:
            self.returned = piece.endswith(b"\r")
            lines = LINE.split(piece)
        else:
            lines = piece.split(b"\n")
        last = lines.pop()
        if lines and self.rest:
            lines[0] = b"".join([*self.rest, lines[0]])
            self.rest, self.waiting = [], 0
        events = self._take(lines)
        if last:
            self.rest.append(last)
            self.waiting += len(last)
        self.clean = not (self.rest or self.data or self.returned)
        self.overflown = self.overflown or self.size + self.waiting > self.limit
        if self.overflown and not events:
            raise EventTooLargeError
        return events

    def end(self) -> bool:
        """Whether the stream ended at an event's boundary; half an event is never given out."""
        return not (self.data or self.rest or self.overflown)

    def _take(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if not line:
                if self.data:
                    event = self.data[0] if len(self.data) == 1 else b"\n".join(self.data)
                    if event:
                        events.append(event)
                    self.data, self.size = [], 0
                continue
            if self.size + len(line) > self.limit:
                self.overflown = True
                break
            if line.startswith(b"data:"):
                self.data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
                self.size += len(line)
            elif line == b"data":  # a field without a colon has the empty value
                self.data.append(b"")
                self.size += len(line)
        return events
