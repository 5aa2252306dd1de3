"""Exchange and Attempt: what layers share, made by whoever is outermost."""

from __future__ import annotations

from llmgw.asgi import Message, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, Attempt, Deployment, Exchange, attempt_of, enter, new_id
from llmgw.testing import exchange, no_send


async def test_the_outermost_makes_it_the_others_find_it() -> None:
    """One Exchange, one scope, one writer of headers."""
    scope: Scope = {"type": "http"}
    first, inner, send = enter(scope, no_send)
    second, same, unwrapped = enter(inner, send)

    assert second is first
    assert (same, unwrapped) == (inner, send)
    assert EXCHANGE not in scope


async def test_headers_of_the_exchange_are_on_the_response() -> None:
    """They replace the app's own of that name, and leave the others."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        known, scope, send = enter(scope, send)
        known.headers[b"x-a"] = b"layer"
        start: Message = {"type": "http.response.start", "status": 200}
        await send(
            {**start, "headers": [(b"x-a", b"app"), (b"set-cookie", b"1"), (b"set-cookie", b"2")]}
        )
        await send({"type": "http.response.body", "body": b""})

    reply = await exchange(app)

    assert sorted(reply.messages[0]["headers"]) == [
        (b"set-cookie", b"1"),
        (b"set-cookie", b"2"),
        (b"x-a", b"layer"),
    ]


def test_ids_are_hexadecimal_and_differ() -> None:
    """32 digits, as a trace id."""
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


def test_an_attempt_is_found_or_made() -> None:
    """Alone, an app has a first attempt."""
    known = Attempt(3)

    assert attempt_of({"llmgw.attempt": known}) is known
    assert attempt_of({}).number == 1


def test_a_deployment_does_not_show_its_key() -> None:
    """Nor its headers, which may hold one."""
    shown = repr(Deployment("groq", "m", api_key="sk-secret", headers=(("x", "sk-other"),)))

    assert "sk-" not in shown


def test_nothing_is_known_at_first() -> None:
    """Readers take None for not known."""
    known = Exchange()

    assert (known.request_id, known.key, known.model, known.answer) == (None,) * 4
