"""An upstream written for tests: true HTTP/1.1 on a real port, canned answers, and a memory."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import anyio.to_thread
import attrs
import h11

WAIT = 60.0  # seconds until a wait gives up; a busy machine needs some
PIECES = ("Hello", " from", " upstream")
TEXT = "".join(PIECES)
INPUT_TOKENS, OUTPUT_TOKENS = 9, 3
USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


@attrs.frozen
class Request:
    """What a client sent, with header names in lower case."""

    method: str
    path: str  # without the query
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, and an empty object when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}


@attrs.frozen
class Reply:
    """One answer: with `chunks` it is sent in chunks, else `body` with its length."""

    status: int = 200
    headers: dict[str, str] = attrs.field(factory=dict[str, str])
    body: bytes | str | dict[str, Any] = b""  # an object is sent as JSON
    chunks: Sequence[bytes] | None = None
    delay: float = 0.0  # seconds before the head
    hold: int | None = None  # chunks that go out before `release()`; 0 holds the head back too
    cut: int | None = None  # chunks that go out before the connection is reset; 0: not the head


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event of JSON, or of text as it is."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def stream(chunks: Sequence[bytes], **options: Any) -> Reply:
    """A reply that is an event stream, each chunk written by itself."""
    return Reply(headers={"content-type": "text/event-stream"}, chunks=chunks, **options)


def chat_chunks(model: str = "recorded", *, include_usage: bool = False) -> list[bytes]:
    """OpenAI's stream: three chunks of text, the finish, perhaps the usage, and the end."""

    def chunk(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        return event(
            {
                "id": "chatcmpl-recorded",
                "object": "chat.completion.chunk",
                "created": 1700000000,
                "model": model,
                "choices": choices,
                **({"usage": usage} if include_usage else {}),
            }
        )

    deltas: list[dict[str, str]] = [{"content": piece} for piece in PIECES]
    deltas[0]["role"] = "assistant"
    return [
        *(chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas),
        chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        *([chunk([], USAGE)] if include_usage else []),
        event("[DONE]"),
    ]


def openai_chat(request: Request) -> Reply:
    """OpenAI's chat completion."""
    asked = request.json()
    model = asked.get("model", "recorded")
    if asked.get("stream"):
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        return stream(chat_chunks(model, include_usage=usage))
    message = {"role": "assistant", "content": TEXT}
    return Reply(
        body={
            "id": "chatcmpl-recorded",
            "object": "chat.completion",
            "created": 1700000000,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    )


def openai_embeddings(request: Request) -> Reply:
    """OpenAI's embeddings, one of three numbers for each input."""
    asked = request.json()
    inputs = asked["input"] if isinstance(asked.get("input"), list) else [asked.get("input")]
    vectors = [
        {"object": "embedding", "index": index, "embedding": [0.25, 0.5, 0.75]}
        for index, _ in enumerate(inputs)
    ]
    usage = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
    model = asked.get("model", "recorded")
    return Reply(body={"object": "list", "model": model, "data": vectors, "usage": usage})


def anthropic_messages(request: Request) -> Reply:
    """Anthropic's message."""
    asked = request.json()
    message: dict[str, Any] = {
        "id": "msg_recorded",
        "type": "message",
        "role": "assistant",
        "model": asked.get("model", "recorded"),
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
    }
    if not asked.get("stream"):
        return Reply(body=message)
    begun = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": 1},
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": piece},
            }
            for piece in PIECES
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": OUTPUT_TOKENS},
        },
        {"type": "message_stop"},
    ]
    return stream([event(data, data["type"]) for data in events])


def gemini(request: Request) -> Reply:
    """Gemini's generated content, whole or as events."""

    def answer(text: str, *, last: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {
            "index": 0,
            "content": {"role": "model", "parts": [{"text": text}]},
            **({"finishReason": "STOP"} if last else {}),
        }
        usage = {
            "promptTokenCount": INPUT_TOKENS,
            "candidatesTokenCount": OUTPUT_TOKENS,
            "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS,
        }
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "recorded"}

    if request.path.endswith(":streamGenerateContent"):
        last = len(PIECES) - 1
        return stream([event(answer(t, last=at == last)) for at, t in enumerate(PIECES)])
    return Reply(body=answer(TEXT, last=True))


def default(request: Request) -> Reply:
    """The answer of the API whose path was called, and OpenAI's 404 elsewhere."""
    path = request.path
    if path.endswith("/messages"):
        return anthropic_messages(request)
    if path.endswith((":generateContent", ":streamGenerateContent")):
        return gemini(request)
    if path.endswith("/chat/completions"):
        return openai_chat(request)
    if path.endswith("/embeddings"):
        return openai_embeddings(request)
    error = {
        "message": f"no such path: {path}",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
    return Reply(status=404, body={"error": error})


@attrs.define(eq=False)
class Connection(asyncio.Protocol):
    """One client's connection: h11 speaks, a task answers, and a close ends the task."""

    recorder: Recorder
    http: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.SERVER))
    transport: asyncio.Transport | None = None
    head: h11.Request | None = None
    body: bytearray = attrs.field(factory=bytearray)
    answer: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.recorder.changed(connection=self, opened=1)

    def connection_lost(self, exc: Exception | None) -> None:
        answering = self.answer is not None
        if self.answer is not None:
            self.answer.cancel()
        self.recorder.changed(connection=self, opened=-1, closed=1, cut=int(answering))

    def data_received(self, data: bytes) -> None:
        self.http.receive_data(data)
        self.advance()

    def advance(self) -> None:
        """Takes what has come, up to the end of one request."""
        assert self.transport is not None
        while True:
            try:
                came = self.http.next_event()
            except h11.RemoteProtocolError:
                self.transport.abort()
                return
            match came:
                case h11.Request():
                    self.head, self.body = came, bytearray()
                    if self.http.they_are_waiting_for_100_continue:
                        self.send(h11.InformationalResponse(status_code=100, headers=[]))
                case h11.Data():
                    self.body += came.data
                case h11.EndOfMessage():
                    self.answer = asyncio.get_running_loop().create_task(self.respond())
                case h11.ConnectionClosed():
                    self.transport.close()
                    return
                case _:  # NEED_DATA, PAUSED
                    return

    def send(self, sent: h11.Event) -> None:
        """Writes one event of ours."""
        data = self.http.send(sent)
        if data and self.transport is not None:
            self.transport.write(data)

    async def respond(self) -> None:
        """Answers the request that has come, then is ready for the next."""
        assert self.head is not None
        assert self.transport is not None
        target = urlsplit(self.head.target.decode())
        request = Request(
            method=self.head.method.decode(),
            path=target.path,
            query=target.query,
            headers={name.decode(): value.decode("latin-1") for name, value in self.head.headers},
            body=bytes(self.body),
        )
        reply = self.recorder.recorded(request)
        if not await self.write(reply):
            self.answer = None  # the cut is ours, not the client's
            self.transport.close()
            return
        self.answer = None
        self.recorder.changed(answered=1)
        if self.http.our_state is h11.MUST_CLOSE:
            self.transport.close()
            return
        self.http.start_next_cycle()
        self.advance()

    async def write(self, reply: Reply) -> bool:
        """Sends a reply, and says whether all of it went out."""
        body = reply.body
        headers = {"content-type": "application/json", "x-request-id": "req-recorded"}
        headers |= {name.lower(): value for name, value in reply.headers.items()}
        if isinstance(body, dict):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        if reply.chunks is None:
            headers["content-length"] = str(len(body))
        else:
            headers["transfer-encoding"] = "chunked"
        chunks = [body] if reply.chunks is None else reply.chunks
        if reply.delay:
            await asyncio.sleep(reply.delay)
        for gone in range(len(chunks) + 1):
            if gone == reply.hold:
                await self.recorder.held()
            if gone == reply.cut:
                return False
            if gone == 0:
                head = [(name.encode(), value.encode()) for name, value in headers.items()]
                self.send(h11.Response(status_code=reply.status, headers=head))
            if gone < len(chunks):
                self.send(h11.Data(data=chunks[gone]))
                await asyncio.sleep(0)
        self.send(h11.EndOfMessage())
        return True


@attrs.define(eq=False)
class Recorder:
    """The upstream: it runs in a thread of its own, so that a test may run on any event loop."""

    requests: list[Request] = attrs.field(factory=list[Request], init=False)
    script: deque[Reply] = attrs.field(factory=deque[Reply], init=False)  # before the defaults
    port: int = attrs.field(default=0, init=False)
    open_connections: int = attrs.field(default=0, init=False)
    closed: int = attrs.field(default=0, init=False)  # connections that ended, in whatever way
    cut: int = attrs.field(default=0, init=False)  # of these, by the client in mid-answer
    answered: int = attrs.field(default=0, init=False)  # replies that went out whole
    holding: int = attrs.field(default=0, init=False)  # replies that wait for `release()`
    _change: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _connections: set[Connection] = attrs.field(factory=set[Connection], init=False)
    _loop: asyncio.AbstractEventLoop | None = attrs.field(default=None, init=False)
    _released: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _stopped: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self.wait_until(lambda: self.port > 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(WAIT)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(lambda: Connection(self), "127.0.0.1", 0)
        with self._change:
            self.port = server.sockets[0].getsockname()[1]
            self._change.notify_all()
        await self._stopped.wait()
        server.close()
        for connection in list(self._connections):
            assert connection.transport is not None
            connection.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)  # lets the connections say that they are lost

    def wait_until(self, true: Callable[[], bool], timeout: float = WAIT) -> None:
        """Returns once `true()` holds, looked at whenever anything here changes."""
        with self._change:
            if not self._change.wait_for(true, timeout):
                raise AssertionError(f"not within {timeout} s: {self}")

    async def until(self, true: Callable[[], bool], timeout: float = WAIT) -> None:  # noqa: ASYNC109
        """`wait_until` for a test on an event loop, which goes on meanwhile."""
        await anyio.to_thread.run_sync(self.wait_until, true, timeout)

    def release(self) -> None:
        """Lets all held replies go on, those to come as well."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._released.set)

    async def held(self) -> None:
        """Waits, in the upstream's own thread, for `release()`."""
        self.changed(holding=1)
        try:
            await self._released.wait()
        finally:
            self.changed(holding=-1)

    def recorded(self, request: Request) -> Reply:
        """Keeps a request, and gives the reply to it."""
        with self._change:
            self.requests.append(request)
            self._change.notify_all()
            return self.script.popleft() if self.script else default(request)

    def changed(
        self,
        *,
        connection: Connection | None = None,
        opened: int = 0,
        closed: int = 0,
        cut: int = 0,
        answered: int = 0,
        holding: int = 0,
    ) -> None:
        """Counts, and wakes who waits."""
        with self._change:
            self.open_connections += opened
            self.closed += closed
            self.cut += cut
            self.answered += answered
            self.holding += holding
            if connection is not None and opened > 0:
                self._connections.add(connection)
            elif connection is not None:
                self._connections.discard(connection)
            self._change.notify_all()
