"""Drive an app through one exchange, without a server or a client in between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anyio
import attrs

from llmgw.asgi import BODY, START, ASGIApp, Message, RawHeaders, Receive, Scope, Send
from llmgw.lint import LintMiddleware


@attrs.frozen
class Reply:
    """What an app answered: all ``http.response.*`` messages, in order."""

    messages: list[Message]

    @property
    def status(self) -> int:
        """The status code."""
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers; of a repeated one, the last."""
        return dict(self.messages[0].get("headers", ()))

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def no_receive() -> Message:
    """A ``receive`` for apps that must not call it."""
    raise AssertionError("receive was called")


async def no_send(message: Message) -> None:
    """A ``send`` for apps that must not call it."""
    raise AssertionError(f"send was called with {message!r}")


async def exchange(
    app: ASGIApp,
    *chunks: bytes,
    headers: RawHeaders = (),
    method: str = "POST",
    path: str = "/v1/chat/completions",
    extra: Iterable[tuple[str, object]] = (),
) -> Reply:
    """Send ``chunks`` as one request to ``app`` under lint and return its reply.

    The client stays until the response is complete: only then does ``receive`` tell of a
    disconnect.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **dict(extra),
    }
    parts = chunks or (b"",)
    inbox: list[Message] = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]
    reply = Reply([])

    complete = anyio.Event()

    async def receive() -> Message:
        if inbox:
            return inbox.pop(0)
        await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        reply.messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            complete.set()

    await LintMiddleware(app)(scope, receive, send)
    return reply


@attrs.frozen
class Step:
    """What a ScriptedApp does in one call: answer with ``chunks``, one message each.

    ``error`` is raised after them; with no chunks, before anything was sent.
    """

    status: int = 200
    chunks: Sequence[bytes] = ()
    headers: RawHeaders = ()
    error: Exception | None = None


@attrs.frozen
class Asked:
    """One call that a ScriptedApp got."""

    scope: Scope
    body: bytes


@attrs.define(eq=False)
class ScriptedApp:
    """An ASGI app that takes the next of ``script`` for each call, and keeps what it was ``asked``.

    A step may be written short: a status, the bytes of a whole 200, or an exception to raise. A
    call beyond the script fails the test.
    """

    script: Sequence[Step | int | bytes | Exception]
    asked: list[Asked] = attrs.field(factory=list[Asked], init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, then do the next step."""
        parts: list[bytes] = []
        message: Message = {"more_body": True}
        while message.get("more_body", False):
            message = await receive()
            parts.append(message.get("body", b""))
        self.asked.append(Asked(dict(scope), b"".join(parts)))
        if len(self.asked) > len(self.script):
            raise AssertionError(f"call {len(self.asked)} of a script of {len(self.script)}")
        step = read_step(self.script[len(self.asked) - 1])
        if step.chunks or step.error is None:
            await send({"type": START, "status": step.status, "headers": list(step.headers)})
            for chunk in step.chunks:
                await send({"type": BODY, "body": chunk, "more_body": True})
        if step.error is not None:
            raise step.error
        await send({"type": BODY, "body": b""})


def read_step(step: Step | int | bytes | Exception) -> Step:
    """A step that was written short, in full."""
    match step:
        case Step():
            return step
        case int():
            return Step(step)
        case bytes():
            return Step(chunks=[step])
        case Exception():
            return Step(error=step)
