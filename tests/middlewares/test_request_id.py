"""RequestIDMiddleware: one id for each exchange, the client's own if it is safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw import layer, stack
from llmgw.asgi import Receive, Scope, Send
from llmgw.errors import AuthError
from llmgw.exchange import EXCHANGE
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.request_id import SAFE, RequestIDMiddleware, request_id
from llmgw.testing import ScriptedApp, exchange, no_receive, no_send


async def tell_id(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the id as the app sees it: in the Exchange, and in the context."""
    seen = f"{scope[EXCHANGE].request_id} {request_id.get()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": seen})


app = RequestIDMiddleware(tell_id, generate=lambda: "new")


async def test_new_id_is_seen_by_app_context_and_client() -> None:
    """Without a header, one generated id is in Exchange, context and response."""
    reply = await exchange(app)

    assert reply.body == b"new new"
    assert reply.headers[b"x-request-id"] == b"new"


@pytest.mark.parametrize("safe", [b"x", b"req-0123456789abcdef", b"trace:1.2_3-4", b"x" * 128])
async def test_safe_id_of_the_client_is_kept(safe: bytes) -> None:
    """A safe id from the client is used, not replaced."""
    reply = await exchange(app, headers=[(b"x-request-id", safe)])

    assert reply.headers[b"x-request-id"] == safe
    assert reply.body == safe + b" " + safe


@pytest.mark.parametrize(
    "unsafe",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"x" * 129, id="too-long"),
        pytest.param(b"x" * 20 + b"\nlevel=ERROR", id="log-injection"),
        pytest.param(b"x\n", id="line-end"),
        pytest.param(b'x", "admin": "', id="json-injection"),
        pytest.param("ü".encode() * 20, id="not-ascii"),
    ],
)
async def test_unsafe_id_of_the_client_is_replaced(unsafe: bytes) -> None:
    """An id that must not be repeated in logs is replaced by a new one."""
    reply = await exchange(app, headers=[(b"x-request-id", unsafe)])

    assert reply.headers[b"x-request-id"] == b"new"


@given(st.binary(max_size=200))
def test_what_is_safe_cannot_break_a_log_line(value: bytes) -> None:
    """Whatever bytes are offered, those that are kept are printable, short and without quotes."""
    if SAFE.fullmatch(value):
        text = value.decode("ascii")
        assert text.isprintable()
        assert len(text) <= 128
        assert not set(text) & set("\"'\\ {}<>")


async def test_generated_ids_are_safe_and_differ() -> None:
    """An id of ours would be accepted back from a client."""
    app = RequestIDMiddleware(tell_id)

    first, second = [(await exchange(app)).headers[b"x-request-id"] for _ in "12"]

    assert first != second
    assert SAFE.fullmatch(first)


async def test_further_headers_go_on_every_response_unless_set_below() -> None:
    """``headers`` are defaults: a layer within may say otherwise."""

    async def hit(scope: Scope, receive: Receive, send: Send) -> None:
        scope[EXCHANGE].headers[b"x-cache-status"] = b"HIT"
        await tell_id(scope, receive, send)

    default = {b"x-cache-status": b"MISS"}

    missed = await exchange(RequestIDMiddleware(tell_id, headers=default))
    found = await exchange(RequestIDMiddleware(hit, headers=default))

    assert missed.headers[b"x-cache-status"] == b"MISS"
    assert found.headers[b"x-cache-status"] == b"HIT"


async def test_an_id_that_the_app_sets_itself_is_replaced() -> None:
    """The response has one id, the one that the logs have."""

    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"X-Request-Id", b"own")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    reply = await exchange(RequestIDMiddleware(own, generate=lambda: "new"))

    assert reply.messages[0]["headers"] == [(b"x-request-id", b"new")]


async def test_errors_written_by_a_layer_below_carry_the_id() -> None:
    """In the stack also an error that the app raised has it."""
    broken = ScriptedApp([AuthError("no")])
    app = stack([layer(RequestIDMiddleware), layer(ErrorMapMiddleware)], broken)

    reply = await exchange(app, headers=[(b"x-request-id", b"mine")])

    assert reply.status == 401
    assert reply.headers[b"x-request-id"] == b"mine"


async def test_context_is_clean_after_the_exchange() -> None:
    """The context variable does not leak into the next exchange of the task, error or not."""
    await exchange(app)
    assert request_id.get() is None

    with pytest.raises(AuthError):
        await exchange(RequestIDMiddleware(ScriptedApp([AuthError("no")])))
    assert request_id.get() is None


async def test_other_scope_types_pass_through() -> None:
    """Lifespan and websocket scopes reach the app as they are."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await RequestIDMiddleware(note)(scope, no_receive, no_send)

    assert seen[0] is scope
