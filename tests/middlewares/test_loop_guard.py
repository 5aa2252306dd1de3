"""LoopGuardMiddleware: a request that comes back to the gateway that sent it is refused."""

from __future__ import annotations

import pytest

from llmgw import errors
from llmgw.asgi import Receive, Scope, Send
from llmgw.exchange import EXCHANGE
from llmgw.middlewares.loop_guard import MAX_HOPS, LoopGuardMiddleware
from llmgw.testing import ScriptedApp, exchange, no_receive, no_send

OTHER = b"llmgw-0123456789abcdef"


async def sent_by(guard: LoopGuardMiddleware, *via: bytes) -> bytes:
    """The Via header that goes upstream for a request that came with these."""
    app = guard.app
    assert isinstance(app, ScriptedApp)
    await exchange(guard, headers=[(b"via", value) for value in via])
    found: bytes = app.asked[-1].scope[EXCHANGE].via
    return found


async def test_a_request_that_comes_back_is_refused() -> None:
    """Directly, or with other gateways and proxies on the way."""
    app = ScriptedApp([200] * 3)
    guard = LoopGuardMiddleware(app)
    own = await sent_by(guard)

    for via in (own, own + b", 1.1 " + OTHER, b"1.0 fred, 1.1 p.example (x), " + own):
        with pytest.raises(errors.LoopError) as caught:
            await exchange(guard, headers=[(b"via", via)])
        assert caught.value.status == 508
    assert len(app.asked) == 1


async def test_gateways_in_a_row_are_no_loop() -> None:
    """The second one sends its own entry behind the first one's."""
    first, second = (LoopGuardMiddleware(ScriptedApp([200])) for _ in range(2))

    own = await sent_by(first)

    assert await sent_by(second, own) == own + b", 1.1 " + second.entry


async def test_more_gateways_than_make_sense_are_a_loop() -> None:
    """Through workers, each of which has an entry of its own."""
    entries = [b"1.1 llmgw-%016x" % number for number in range(MAX_HOPS)]
    guard = LoopGuardMiddleware(ScriptedApp([200]))

    await sent_by(guard, *entries[1:])
    with pytest.raises(errors.LoopError):
        await exchange(guard, headers=[(b"via", b", ".join(entries))])


@pytest.mark.parametrize("via", [b"", b"1.1 varnish", b"\xff", b"llmgw", b"1.1 llmgw-xyz"])
async def test_other_entries_do_not_go_upstream(via: bytes) -> None:
    """A client's proxies are no matter of the upstream's."""
    guard = LoopGuardMiddleware(ScriptedApp([200]))

    assert await sent_by(guard, via) == b"1.1 " + guard.entry


async def test_other_scope_types_pass_through() -> None:
    """A lifespan has no Via."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await LoopGuardMiddleware(note)(scope, no_receive, no_send)

    assert seen[0] is scope
