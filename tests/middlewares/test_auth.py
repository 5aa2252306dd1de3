"""AuthMiddleware: a client is known by its key, or it is not answered."""

from __future__ import annotations

from hashlib import sha256

import pytest

from llmgw import layer, stack
from llmgw.asgi import Message, Receive, Scope, Send, find_header
from llmgw.errors import AuthError
from llmgw.exchange import EXCHANGE
from llmgw.middlewares.auth import KEY_LIMIT, AuthMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.testing import ScriptedApp, exchange, no_receive, no_send

KEY = b"sk-client-0123456789"
KEYS = {sha256(KEY).hexdigest(): "team-a"}


async def tell_name(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the name of the client's key."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope[EXCHANGE].key.encode()})


app = AuthMiddleware(tell_name, keys=KEYS)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param((b"authorization", b"Bearer " + KEY), id="bearer"),
        pytest.param((b"authorization", b"bearer  " + KEY + b" "), id="any-case-and-spaces"),
        pytest.param((b"x-api-key", KEY), id="as-Anthropic"),
        pytest.param((b"api-key", KEY), id="as-Azure"),
    ],
)
async def test_known_key_is_known_by_its_name(header: tuple[bytes, bytes]) -> None:
    """Whichever client library sent it."""
    assert (await exchange(app, headers=[header])).body == b"team-a"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([(b"authorization", b"")], id="empty"),
        pytest.param([(b"authorization", b"Bearer")], id="no-token"),
        pytest.param([(b"authorization", b"Bearer  ")], id="blank-token"),
        pytest.param([(b"authorization", b"Basic " + KEY)], id="another-scheme"),
        pytest.param([(b"authorization", b"Bearer " + KEY + b"x")], id="unknown"),
        pytest.param([(b"authorization", b"Bearer " + KEY[:-1])], id="a-beginning"),
        pytest.param([(b"authorization", b"Bearer " + next(iter(KEYS)).encode())], id="the-hash"),
        pytest.param([(b"x-api-key", b"\xff\xfe")], id="not-text"),
    ],
)
async def test_stranger_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """The app is never called, and the answer says how a key is sent."""
    inner = ScriptedApp([])
    guarded = stack([layer(ErrorMapMiddleware), layer(AuthMiddleware, keys=KEYS)], inner)

    reply = await exchange(guarded, headers=headers)

    assert reply.status == 401
    assert reply.headers[b"www-authenticate"] == b"Bearer"
    assert b"invalid_api_key" in reply.body
    assert b"Authorization: Bearer" in reply.body
    assert inner.asked == []


async def test_no_key_is_known_when_none_is_listed() -> None:
    """An empty list closes the door, it does not open it."""
    with pytest.raises(AuthError):
        await exchange(AuthMiddleware(tell_name), headers=[(b"x-api-key", KEY)])


async def test_key_beyond_the_limit_is_unknown() -> None:
    """Nobody makes us hash megabytes; a key as long as the limit is hashed."""
    longest, longer = b"k" * KEY_LIMIT, b"k" * (KEY_LIMIT + 1)
    names = {sha256(longest).hexdigest(): "longest", sha256(longer).hexdigest(): "longer"}
    both = AuthMiddleware(tell_name, keys=names)

    assert (await exchange(both, headers=[(b"x-api-key", longest)])).body == b"longest"
    with pytest.raises(AuthError):
        await exchange(both, headers=[(b"x-api-key", longer)])


async def test_service_finds_the_account_by_itself() -> None:
    """``find`` maps the scope to a name, and is asked instead of the list."""

    def find(scope: Scope) -> str | None:
        value = find_header(scope["headers"], b"x-tenant")
        return value.decode() if value == b"acme" else None

    tenants = AuthMiddleware(tell_name, keys=KEYS, find=find)

    assert (await exchange(tenants, headers=[(b"x-tenant", b"acme")])).body == b"acme"
    with pytest.raises(AuthError):
        await exchange(tenants, headers=[(b"x-api-key", KEY)])


async def test_key_is_not_shown() -> None:
    """Neither the error nor the layer's own text tells a key or a hash."""
    with pytest.raises(AuthError) as caught:
        await exchange(app, headers=[(b"x-api-key", b"sk-wrong-key-of-a-client")])

    assert "sk-wrong" not in caught.value.body().decode()
    assert next(iter(KEYS)) not in repr(app)


async def test_websocket_is_refused_before_it_begins() -> None:
    """What Auth cannot look at does not pass it."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/", "headers": []}, receive, send)

    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


async def test_websocket_passes_when_the_service_says_so() -> None:
    """A service that guards its websockets itself can let them through."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "websocket"}
    await AuthMiddleware(note, websockets=True)(scope, no_receive, no_send)

    assert seen[0] is scope


async def test_lifespan_passes_through() -> None:
    """A lifespan has no key."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await AuthMiddleware(note, keys=KEYS)(scope, no_receive, no_send)

    assert seen[0] is scope
