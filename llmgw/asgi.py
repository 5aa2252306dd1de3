"""The words of ASGI 3: the types of every layer, and helpers for headers and one-shot answers.

Source   asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Header = tuple[bytes, bytes]
RawHeaders = Iterable[Header]

START, BODY = "http.response.start", "http.response.body"


def find_header(headers: RawHeaders, name: bytes) -> bytes | None:
    """The first value of ``name`` (lower case) in a response's headers, or None."""
    for key, value in headers:
        if key == name or (len(key) == len(name) and key.lower() == name):
            return value
    return None


def request_header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a request's header, or None; servers give names in lower case.

    Of twelve headers this takes half the time that a dict of them does.
    """
    headers: RawHeaders = scope["headers"]
    for key, value in headers:
        if key == name:
            return value
    return None


def set_headers(headers: RawHeaders, new: Mapping[bytes, bytes]) -> list[Header]:
    """A copy of ``headers`` where each name of ``new`` (lower case) has just the new value."""
    return [pair for pair in headers if pair[0].lower() not in new] + list(new.items())


def ends(message: Message) -> bool:
    """Whether ``message`` is the last of a response."""
    return message["type"] == BODY and not message.get("more_body", False)


async def respond(
    send: Send,
    status: int,
    body: bytes,
    *,
    headers: Iterable[Header] = (),
    content_type: bytes = b"application/json",
) -> None:
    """Send a whole response: a start with type and length, and one body."""
    base = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": START, "status": status, "headers": [*base, *headers]})
    await send({"type": BODY, "body": body})
