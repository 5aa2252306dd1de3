"""Drive an app through one exchange, without a server or a client in between."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import attrs

from llmgw.asgi import ASGIApp, Message, RawHeaders
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

    The client stays until the response is complete: only then does ``receive`` tell of a disconnect.
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
