"""An upstream for benchmarks: answers chat completions at once, or as slowly as it is told.

One process, no framework: it must cost little beside what is measured. It speaks as much of
OpenAI's API as gateways look at. ``python -m benchmarks.upstream 9000``; a
``GET /set?events=100&together=10`` changes the knobs below.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import Any
from urllib.parse import parse_qsl

import attrs
import httptools

CONTENT = "word " * 140  # of a whole answer: with its envelope about 1 KB
ENVELOPE = '"id":"chatcmpl-bench","created":1790000000,"model":"m-2026-01-01"'
USAGE = '"usage":{"prompt_tokens":400,"completion_tokens":100,"total_tokens":500}'
WHOLE = (
    f'{{{ENVELOPE},"object":"chat.completion","system_fingerprint":"fp_0123456789","choices":[{{"index"'
    f':0,"message":{{"role":"assistant","content":"{CONTENT}","refusal":null}},"logprobs":null,'
    f'"finish_reason":"stop"}}],{USAGE}}}'
).encode()


@attrs.define
class Knobs:
    """How the upstream answers from now on."""

    events: int = 100  # of a stream
    together: int = 10  # events in one write
    delay_ms: float = 0  # between two writes
    wait_ms: float = 0  # before an answer begins


KNOBS = Knobs()


def event(choices: str, rest: str = "") -> bytes:
    """One event, framed as a chunk."""
    text = f'{{{ENVELOPE},"object":"chat.completion.chunk","choices":[{choices}]{rest}}}'
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(said: str, reason: str = "null") -> bytes:
    """An event with a delta."""
    return event(f'{{"index":0,"delta":{said},"logprobs":null,"finish_reason":{reason}}}')


WORD = delta('{"content":" word"}')
FIRST = delta('{"role":"assistant","content":""}')
LAST = delta("{}", '"stop"')
TOLD = event("", "," + USAGE)
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@functools.lru_cache(maxsize=64)
def writes(events: int, together: int, usage: bool) -> list[bytes]:
    """A stream's body, by writes."""
    parts = [FIRST, *[WORD] * (events - 1)]
    found = [b"".join(parts[at : at + together]) for at in range(0, len(parts), together)]
    found[-1] += LAST + (TOLD if usage else b"") + DONE
    return found


def head(kind: bytes, framing: bytes) -> bytes:
    """The head of a response."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n" % (kind, framing)


ANSWER = head(b"application/json", b"content-length: %d" % len(WHOLE)) + WHOLE
STREAM = head(b"text/event-stream", b"transfer-encoding: chunked")
EMPTY = head(b"text/plain", b"content-length: 2") + b"ok"


class Server(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self.transport: Any = transport
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.url, self.body = b"", list[bytes]()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """The target."""
        self.url += url

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        url, body = self.url, b"".join(self.body)
        self.url, self.body = b"", []
        if url.startswith(b"/set?"):
            for name, value in parse_qsl(url[5:].decode()):
                setattr(KNOBS, name, float(value) if name.endswith("_ms") else int(value))
            self.transport.write(EMPTY)
        elif KNOBS.wait_ms:
            self.loop.call_later(KNOBS.wait_ms / 1000, self.answer, body)
        else:
            self.answer(body)

    def answer(self, body: bytes) -> None:
        """Answer a chat request."""
        if self.transport.is_closing():
            return
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self.transport.write(ANSWER)
            return
        pieces = writes(KNOBS.events, KNOBS.together, b'"include_usage"' in body)
        self.transport.write(STREAM + pieces[0])
        self.later(pieces, 1)

    def later(self, pieces: list[bytes], at: int) -> None:
        """Go on with a stream."""
        if at == len(pieces) or self.transport.is_closing():
            return
        if KNOBS.delay_ms:
            self.loop.call_later(KNOBS.delay_ms / 1000, self.go_on, pieces, at)
        else:
            self.loop.call_soon(self.go_on, pieces, at)

    def go_on(self, pieces: list[bytes], at: int) -> None:
        """Write the next piece."""
        self.transport.write(pieces[at])
        self.later(pieces, at + 1)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1])))
