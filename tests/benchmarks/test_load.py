"""The load counts what it gets, and the upstream gives what it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import client, load, upstream
from benchmarks.client import EventCounter, Round
from tests.servers import Server, free_port, serve_process

ROOT = Path(__file__).parent.parent.parent
EVENT = b'data: {"choices":[]}\n\n'
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n%b\r\nok"


@pytest.fixture(scope="module")
def model() -> Iterator[Server]:
    """The benches' upstream in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
    with serve_process(command, port=port, cwd=ROOT) as server:
        yield server


@given(st.integers(0, 20), st.lists(st.integers(0, 500), max_size=20))
def test_events_are_counted_wherever_a_body_is_cut(events: int, cuts: list[int]) -> None:
    """Also in the middle of "data: {"; the end is no event."""
    body, counter = EVENT * events + b"data: [DONE]\n\n", EventCounter()
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    for begin, end in itertools.pairwise(places):
        counter.feed(body[begin:end])

    assert counter.count == events


@pytest.mark.parametrize(("stream", "events"), [(False, 0), (True, 7 + 1)])
def test_every_answer_and_event_is_counted(model: Server, stream: bool, events: int) -> None:
    """The events of a stream, and the one with the finish reason."""
    load.run(load.tell(model.port, events=7, together=3))
    request = client.request_of(model.port, "m", stream=stream)

    found = load.run(load.closed(model.port, request, 4, 0.05))

    assert (found.failures, found.failure) == (0, "")
    assert found.answers == len(found.latencies) == len(found.firsts) >= 4
    assert found.events == found.answers * events
    assert all(first <= whole for first, whole in zip(found.firsts, found.latencies, strict=True))


def test_a_fixed_rate_sends_so_many(model: Server) -> None:
    """Whether they are answered or not; the clock of each begins when it is sent."""
    request = client.request_of(model.port, "m")

    found = load.run(load.open_loop(model.port, request, 200, 0.1))

    assert (found.answers, found.failures) == (20, 0)


def test_a_load_without_a_server_ends() -> None:
    """Each connection tells its failure."""
    found = load.run(load.closed(free_port(), b"", 3, 0))

    assert (found.answers, found.failures) == (0, 3)
    assert "Connect" in found.failure


class Fake(asyncio.Protocol):
    """Answers each read with bytes, and closes when there are none left."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if self.answers:
            self.transport.write(self.answers.pop(0))
        else:
            self.transport.close()


def rounds(answers: list[bytes], *, seconds: float = 0) -> Round:
    """A round of one connection against a server that gives these answers, in order."""

    async def main() -> Round:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(lambda: Fake(answers), "127.0.0.1", 0) as server:
            port: int = server.sockets[0].getsockname()[1]
            return await load.closed(port, b"GET / HTTP/1.1\r\n\r\n", 1, seconds)

    return load.run(main())


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nfull", "503 full"),
        (b"nonsense\r\n\r\n", "no HTTP"),
    ],
)
def test_what_is_no_answer_is_a_failure(answer: bytes, failure: str) -> None:
    """A refusal, with its words; rubbish."""
    found = rounds([answer])

    assert (found.answers, found.failures) == (0, 1)
    assert found.failure.startswith(failure)


def test_a_closed_connection_is_a_failure() -> None:
    """When an answer was awaited on it."""
    found = rounds([])

    assert (found.answers, found.failures) == (0, 1)
    assert found.failure.startswith("closed")


def test_a_server_that_does_not_keep_alive_is_no_failure() -> None:
    """The next request has a connection of its own."""
    found = rounds([OK % b"connection: close\r\n", OK % b"", OK % b""], seconds=0.02)

    assert found.answers == 3
    assert found.failure.startswith("closed")  # the fake has no answer left


def ask(model: Server, body: bytes) -> tuple[bytes, bytes]:
    """Head and body of the upstream's answer to a request, read by what it says of its length."""

    async def main() -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", model.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
        text = b""
        if b"chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                text += await reader.readexactly(size)
                await reader.readexactly(2)
        else:
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            text = await reader.readexactly(length)
        writer.close()
        return head, text

    return asyncio.run(main())


def test_the_upstream_answers_like_openai(model: Server) -> None:
    """In one piece of about 1 KB."""
    head, body = ask(model, b'{"model":"m","messages":[]}')

    found = json.loads(body)
    assert head.startswith(b"HTTP/1.1 200")
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["total_tokens"] == 500
    assert 900 < len(body) < 1100


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize(("events", "together"), [(1, 1), (10, 3), (10, 100)])
def test_the_upstream_streams_what_it_is_told(
    model: Server, events: int, together: int, usage: bool
) -> None:
    """So many events and the last; usage when it was asked for; [DONE]."""
    load.run(load.tell(model.port, events=events, together=together))
    options = b'"stream_options":{"include_usage":true},' if usage else b""

    head, body = ask(model, b'{"stream":true,%b"messages":[]}' % options)

    assert b"text/event-stream" in head
    *parts, done, rest = body.split(b"\n\n")
    chunks = [json.loads(part.removeprefix(b"data: ")) for part in parts]
    assert (done, rest) == (b"data: [DONE]", b"")
    assert len(chunks) == events + 1 + usage
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[events]["choices"][0]["finish_reason"] == "stop"
    assert ("usage" in chunks[-1]) == usage


@given(st.integers(1, 300), st.integers(1, 300), st.booleans())
def test_the_writes_of_a_stream(events: int, together: int, usage: bool) -> None:
    """All but the last hold so many events; together they hold all."""
    found = upstream.writes(events, together, usage)

    assert len(found) == -(-events // together)
    assert all(part.count(client.EVENT) == together for part in found[:-1])
    assert b"".join(found).count(client.EVENT) == events + 1 + usage
    assert found[-1].endswith(upstream.DONE)


def test_a_request_is_a_request() -> None:
    """Its length is true, its headers are there, its body is JSON."""
    found = client.request_of(80, "m", path="/x", headers={"a": "b"}, stream=True, prompt="hi")
    head, _, body = found.partition(b"\r\n\r\n")

    assert head.startswith(b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:80\r\n")
    assert b"\r\na: b\r\n" in head
    assert head.endswith(b"content-length: %d" % len(body))
    assert json.loads(body)["stream"] is True
