"""AccessLogMiddleware: one JSON line an exchange."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import attrs
import pytest

from llmgw import errors
from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, Attempt, Exchange, Usage
from llmgw.middlewares.access_log import PLACE, AccessLogMiddleware
from llmgw.stack import layer, misplaced
from llmgw.testing import exchange, no_receive, no_send


@attrs.define
class Lines:
    """A sink that keeps what was logged."""

    found: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])

    def __call__(self, line: bytes) -> None:
        self.found.append(json.loads(line))


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in two chunks, and tell what an inner layer would."""
    known: Exchange = scope[EXCHANGE]
    known.request_id, known.key, known.model = "r-1", "team-a", "m"
    known.answer = Attempt(provider="openai", usage=Usage(3, 4, 7))
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await send({"type": "http.response.body", "body": b"b"})


async def test_line_tells_the_exchange() -> None:
    """Who asked what, what it got, how long it took."""
    lines = Lines()

    await exchange(AccessLogMiddleware(hello, log=lines), b"prompt")

    [line] = lines.found
    assert line.pop("time")
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "http_request",
        "request_id": "r-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 201,
        "model": "m",
        "provider": "openai",
        "key": "team-a",
        "input_tokens": 3,
        "output_tokens": 4,
    }


async def test_query_and_headers_stay_out() -> None:
    """A key in the query string or a header is not logged; a raw path is bounded and escaped."""
    lines = Lines()
    extra = [("query_string", b"api_key=secret")]

    await exchange(
        AccessLogMiddleware(hello, log=lines),
        headers=[(b"authorization", b"secret")],
        path="/a\n" + "x" * 500,
        extra=[*extra, ("raw_path", b"/a")],
    )

    assert "secret" not in json.dumps(lines.found)
    assert lines.found[0]["path"].startswith("/a\\nxxx")
    assert len(lines.found[0]["path"]) == 200


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("secret"), {"error_type": "ValueError"}),
        (
            errors.ProviderUnavailableError("secret", provider="groq"),
            {
                "error_type": "provider_error",
                "error_code": "provider_unavailable",
                "provider": "groq",
            },
        ),
    ],
)
async def test_exception_is_logged_as_500_and_goes_on(
    error: Exception, told: dict[str, str]
) -> None:
    """The line names the kind of error, never its text."""
    lines = Lines()

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await exchange(AccessLogMiddleware(fail, log=lines))

    assert caught.value is error
    assert lines.found[0]["status"] == 500
    assert told.items() <= lines.found[0].items()
    assert "secret" not in json.dumps(lines.found)


async def wait_for_client(scope: Scope, receive: Receive, send: Send) -> None:
    """Begin, then return when the client has left."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while (await receive())["type"] != "http.disconnect":
        pass


async def break_on_send(scope: Scope, receive: Receive, send: Send) -> None:
    """Send into a connection that is gone."""
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize("app", [wait_for_client, break_on_send])
async def test_client_that_left_is_499(app: ASGIApp) -> None:
    """A response that could not be completed because the client left is not a 200."""
    lines = Lines()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if app is break_on_send:
            raise OSError("gone")

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    try:
        await AccessLogMiddleware(app, log=lines)(scope, receive, send)
    except OSError:
        assert app is break_on_send

    assert lines.found[0]["status"] == 499


async def test_cancelled_exchange_is_logged() -> None:
    """Cancellation leaves its line and goes on."""
    lines = Lines()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await exchange(AccessLogMiddleware(hang, log=lines))

    assert scope.cancelled_caught
    assert lines.found[0]["status"] == 499


async def test_default_sink_is_the_access_logger(caplog: pytest.LogCaptureFixture) -> None:
    """Without a sink the line goes to ``llmgw.access``."""
    with caplog.at_level(logging.INFO, logger="llmgw.access"):
        await exchange(AccessLogMiddleware(hello))

    [record] = [one for one in caplog.records if one.name == "llmgw.access"]
    assert json.loads(record.message)["event"] == "http_request"


async def test_other_scope_types_pass_through() -> None:
    """A lifespan is not an exchange: the same scope, no line."""
    seen: list[Scope] = []
    lines = Lines()

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await AccessLogMiddleware(note, log=lines)(scope, no_receive, no_send)

    assert seen[0] is scope
    assert lines.found == []


def test_place_is_above_error_map() -> None:
    """A stack with the log below ErrorMap is refused with the reason."""

    @attrs.frozen
    class ErrorMapMiddleware:
        app: ASGIApp

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

    layers = [layer(ErrorMapMiddleware), layer(AccessLogMiddleware)]

    assert PLACE.above["ErrorMap"] in misplaced(layers)[0]
