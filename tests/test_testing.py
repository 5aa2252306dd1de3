"""testing: one exchange without a server, and an app that follows a script."""

from __future__ import annotations

import anyio
import pytest

from llmgw.asgi import Message, Receive, Scope, Send, respond
from llmgw.lint import LintError
from llmgw.testing import ScriptedApp, Step, exchange, no_receive, no_send


async def test_a_request_comes_in_its_chunks() -> None:
    """Each chunk is one message, the last says so."""
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.extend([await receive(), await receive()])
        await respond(send, 201, scope["path"].encode(), headers=[(b"x-a", b"1")])

    reply = await exchange(app, b"one", b"two", path="/here")
    assert [(m["body"], m["more_body"]) for m in got] == [(b"one", True), (b"two", False)]
    assert (reply.status, reply.headers[b"x-a"], reply.body) == (201, b"1", b"/here")


async def test_the_client_leaves_only_after_the_end() -> None:
    """A watcher of receive meets the disconnect once the response is complete, not before."""
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

        async def watch() -> None:
            assert (await receive())["type"] == "http.disconnect"
            order.append("left")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            order.append("answer")
            await respond(send, 200, b"")

    await exchange(app)
    assert order == ["answer", "left"]


async def test_extra_goes_into_the_scope() -> None:
    """A test can set any key of the scope."""
    app = ScriptedApp([b"{}"])
    await exchange(app, b"x", extra=[("state", {"a": 1})], method="PUT")
    assert app.asked[0].scope["state"] == {"a": 1}
    assert (app.asked[0].scope["method"], app.asked[0].body) == ("PUT", b"x")


async def test_lint_stands_around_the_app() -> None:
    """An app that answers nothing fails the exchange."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(LintError):
        await exchange(app)


async def test_a_script_is_played_call_by_call() -> None:
    """A status, a body, a whole step and an exception, each for one call."""
    step = Step(418, [b"a", b"b"], headers=[(b"x-a", b"1")])
    app = ScriptedApp([503, b"whole", step, ValueError("told")])
    assert (await exchange(app)).status == 503
    assert (await exchange(app)).body == b"whole"
    reply = await exchange(app)
    assert (reply.status, reply.headers, reply.body) == (418, {b"x-a": b"1"}, b"ab")
    assert [message.get("body") for message in reply.messages] == [None, b"a", b"b", b""]
    with pytest.raises(ValueError, match="told"):
        await exchange(app)


async def test_a_step_may_fail_after_its_chunks() -> None:
    """What was sent before the error has gone out."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    app = ScriptedApp([Step(chunks=[b"half"], error=OSError("cut"))])
    with pytest.raises(OSError, match="cut"):
        await app({"type": "http"}, receive, send)
    assert [message.get("body") for message in sent] == [None, b"half"]


async def test_a_call_beyond_the_script_fails() -> None:
    """A layer that asks too often is found out."""
    with pytest.raises(AssertionError, match="call 1 of a script of 0"):
        await exchange(ScriptedApp([]))


async def test_the_closed_ends_refuse() -> None:
    """no_receive and no_send fail the test that reaches them."""
    with pytest.raises(AssertionError, match="receive was called"):
        await no_receive()
    with pytest.raises(AssertionError, match="send was called"):
        await no_send({"type": "x"})
