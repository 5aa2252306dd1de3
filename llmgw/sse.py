"""Server-sent events, split and joined. No I/O.

Source   html.spec.whatwg.org/multipage/server-sent-events.html, "Interpreting an event stream".
"""

from __future__ import annotations

import re

import attrs

EVENT_LIMIT = 16 << 20  # bytes of one event; an image as base64 is about 2 MB, chosen with room
LINE = re.compile(rb"\r\n|\n|\r")


class EventTooLargeError(ValueError):
    """One event is larger than the limit."""


def join(payloads: list[bytes]) -> bytes:
    """The payloads as a stream of events, one ``data:`` line each. They must hold no line break."""
    return b"data: " + b"\n\ndata: ".join(payloads) + b"\n\n" if payloads else b""


@attrs.define
class Splitter:
    """Cut a byte stream, in whatever pieces it comes, into the ``data`` of its events.

    Comments and empty events vanish; ``event``, ``id`` and ``retry`` lines are read over.
    """

    limit: int = EVENT_LIMIT
    rest: bytes = b""
    data: list[bytes] = attrs.field(factory=list[bytes])
    size: int = 0
    begun: bool = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that ``piece`` completes. Raises EventTooLargeError."""
        if not self.begun:
            held = self.rest + piece
            if len(held) < 3 and b"\xef\xbb\xbf".startswith(held):
                self.rest = held
                return []
            self.begun, self.rest = True, b""
            piece = held.removeprefix(b"\xef\xbb\xbf")
        buffer = self.rest + piece if self.rest else piece
        # A lone CR at the end may be half of a CRLF: it waits for the next piece.
        tail = buffer.endswith(b"\r")
        if b"\r" not in buffer:
            lines = buffer.split(b"\n")
        else:
            lines = LINE.split(buffer[:-1] if tail else buffer)
        self.rest = lines.pop() + (b"\r" if tail else b"")
        if self.size + len(self.rest) > self.limit:
            raise EventTooLargeError
        return self._take(lines)

    def end(self) -> bool:
        """Whether the stream ended at the boundary of an event; half an event is never given out."""
        return not self.data and not self.rest.strip(b"\r")

    def _take(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b" ", 5) else line[5:]
                self.data.append(value)
                self.size += len(value)
                if self.size > self.limit:
                    raise EventTooLargeError
            elif not line and self.data:
                event = self.data[0] if len(self.data) == 1 else b"\n".join(self.data)
                if event:
                    events.append(event)
                self.data, self.size = [], 0
        return events
