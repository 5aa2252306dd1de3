"""LoopbackMiddleware: without keys only programs of this machine are answered."""

from __future__ import annotations

import pytest

from llmgw.asgi import Header, Receive, Scope, Send
from llmgw.errors import PermissionDeniedError
from llmgw.middlewares.loopback import LoopbackMiddleware
from llmgw.testing import exchange, no_receive, no_send

JSON = (b"content-type", b"application/json")
HOST = (b"host", b"localhost:8000")


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


app = LoopbackMiddleware(hello)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([JSON, HOST], id="plain"),
        pytest.param([(b"content-type", b"application/json; charset=utf-8"), HOST], id="charset"),
        pytest.param([JSON, (b"host", b"127.0.0.1:8000")], id="address"),
        pytest.param([JSON, (b"host", b"[::1]:8000")], id="ipv6"),
        pytest.param([JSON, HOST, (b"origin", b"http://localhost:3000")], id="own-page"),
    ],
)
async def test_programs_of_this_machine_are_answered(headers: list[Header]) -> None:
    """A JSON request to a loopback Host, from no page or a local one, passes."""
    assert (await exchange(app, b"{}", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        pytest.param([JSON, (b"host", b"evil.example")], "Host", id="rebound-host"),
        pytest.param([JSON, (b"host", b"[::1")], "Host", id="broken-host"),
        pytest.param([JSON, HOST, (b"origin", b"https://evil.example")], "origin", id="page"),
        pytest.param([JSON, HOST, (b"origin", b"null")], "origin", id="opaque-origin"),
        pytest.param([HOST, (b"content-type", b"text/plain")], "content type", id="simple-request"),
        pytest.param([HOST], "content type", id="no-type"),
    ],
)
async def test_what_a_web_page_could_send_is_refused(headers: list[Header], word: str) -> None:
    """Each sign of a browser's cross-origin request is a 403 that says why."""
    with pytest.raises(PermissionDeniedError, match=word) as caught:
        await exchange(app, b"{}", headers=headers)

    assert caught.value.status == 403


async def test_another_address_of_this_machine_is_refused() -> None:
    """A server bound beyond loopback answers nobody without a key."""
    with pytest.raises(PermissionDeniedError, match="loopback only"):
        await exchange(app, b"{}", headers=[JSON, HOST], extra=[("server", ("192.0.2.1", 8000))])


async def test_a_unix_socket_is_this_machine() -> None:
    """A server without a port is a local socket."""
    reply = await exchange(app, headers=[JSON, HOST], extra=[("server", ("/run/x.sock", None))])

    assert reply.status == 200


async def test_get_needs_no_content_type() -> None:
    """A request without a body has no type to check."""
    assert (await exchange(app, method="GET", headers=[HOST])).status == 200


async def test_other_scope_types_pass_through() -> None:
    """Only http scopes are looked at."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await LoopbackMiddleware(note)(scope, no_receive, no_send)

    assert seen[0] is scope
