"""RetryMiddleware: an exchange is repeated until its response has begun."""

from __future__ import annotations

import time
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from llmgw import errors, layer, stack
from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.errors import GatewayError
from llmgw.exchange import ATTEMPT, EXCHANGE, Attempt, Deployment, Exchange
from llmgw.gate import HELD
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.retrying import BUDGET_S, RetryBudget, RetryPolicy
from llmgw.testing import ScriptedApp, Step, exchange, no_receive, no_send

AT_ONCE = RetryPolicy(attempts=3, backoff=0)
DOWN = errors.ProviderUnavailableError("down", provider="groq")
LATER = errors.ProviderUnavailableError("later", provider="groq", retry_after=8)


def retrying(app: ASGIApp, *, max_body: int = 1 << 20) -> ASGIApp:
    return RetryMiddleware(app, policy=AT_ONCE, max_body=max_body)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_status_made_on_the_way_to_the_model_is_retried(status: int) -> None:
    """A rejected response is dropped and the whole body is sent again."""
    app = ScriptedApp([Step(status, [b"bad"]), Step(200, [b"good"])])

    reply = await exchange(retrying(app), b'{"model":', b'"m"}')

    assert (reply.status, reply.body) == (200, b"good")
    assert [asked.body for asked in app.asked] == [b'{"model":"m"}'] * 2
    assert [asked.scope[ATTEMPT].number for asked in app.asked] == [1, 2]


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 404, 409, 500])
async def test_other_status_is_not_retried(status: int) -> None:
    """A response that a repeat would not change goes out at once."""
    assert (await exchange(retrying(ScriptedApp([status])))).status == status


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        errors.RateLimitError("x", provider="groq"),
        errors.RateLimitError("x", provider="groq", retry_after=0),
        errors.ConnectTimeoutError("x", provider="groq"),
    ],
)
async def test_transient_error_is_retried(error: GatewayError) -> None:
    """What the same deployment may answer the second time."""
    app = ScriptedApp([error, b"good"])

    assert (await exchange(retrying(app))).body == b"good"


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequestError("x"),
        errors.AuthError("x", provider="groq"),
        errors.NotFoundError("x"),
        errors.TimeoutError("x", provider="groq"),
        errors.OverloadedError("x"),
    ],
)
async def test_lasting_error_is_not_retried(error: GatewayError) -> None:
    """Silence, too: who waited thirty seconds in vain does not wait for the same again."""
    app = ScriptedApp([error])

    with pytest.raises(type(error)) as caught:
        await exchange(retrying(app))

    assert caught.value is error


async def test_foreign_exception_is_not_retried() -> None:
    """A bug does not go away by running it again."""
    app = ScriptedApp([KeyError("bug")])

    with pytest.raises(KeyError):
        await exchange(retrying(app))
    assert len(app.asked) == 1


async def test_last_response_goes_out_when_attempts_run_out() -> None:
    """The client sees the last response, whole, not an error of ours."""
    app = ScriptedApp([503, 429, Step(504, [b"the", b" last"])])

    reply = await exchange(retrying(app))

    assert (reply.status, reply.body) == (504, b"the last")


async def test_last_error_goes_out_when_attempts_run_out() -> None:
    """The error that leaves is the app's own."""
    last = errors.ProviderUnavailableError("last", provider="groq")

    with pytest.raises(errors.ProviderUnavailableError) as caught:
        await exchange(retrying(ScriptedApp([DOWN, 503, last])))

    assert caught.value is last


async def test_wait_that_is_too_long_is_for_the_client() -> None:
    """Retry-After beyond the policy's limit: the response goes out, with its header."""
    app = ScriptedApp([Step(429, headers=[(b"retry-after", b"60")])])

    reply = await exchange(retrying(app))

    assert (reply.status, reply.headers[b"retry-after"]) == (429, b"60")


async def test_wait_that_is_asked_for_is_waited() -> None:
    """Retry-After replaces the backoff, which would be none here."""
    app = ScriptedApp([Step(503, headers=[(b"retry-after", b"0.05")]), b"good"])
    began = anyio.current_time()

    assert (await exchange(retrying(app))).body == b"good"
    assert anyio.current_time() - began >= 0.05


async def test_begun_response_is_never_retried() -> None:
    """After the first byte has left, a failure is the client's to see."""
    app = ScriptedApp([Step(200, [b"half"], error=DOWN)])

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(retrying(app))
    assert len(app.asked) == 1


async def test_all_repeats_together_are_bounded_by_the_budget() -> None:
    """A budget of one repeat: the first request has it, the second is asked once."""
    budget = RetryBudget(0, reserve=1 / BUDGET_S, clock=lambda: 0.0)
    app = ScriptedApp([503, 503, DOWN])
    layers = RetryMiddleware(app, policy=AT_ONCE, budget=budget)

    assert (await exchange(layers)).status == 503
    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(layers)

    assert len(app.asked) == 3


async def test_a_budget_grows_with_requests() -> None:
    """Each request puts in its share, here half a repeat."""
    budget = RetryBudget(0.5, reserve=0, clock=lambda: 0.0)
    app = ScriptedApp([503, 503, 503])
    layers = RetryMiddleware(app, policy=AT_ONCE, budget=budget)

    for _ in range(2):
        await exchange(layers)

    assert [asked.scope[ATTEMPT].number for asked in app.asked] == [1, 1, 2]


@pytest.mark.parametrize("late", [Step(503, headers=[(b"retry-after", b"8")]), LATER])
async def test_a_wait_that_does_not_fit_in_the_deadline_is_not_begun(
    late: Step | Exception,
) -> None:
    """The failure goes out at once: after the wait there would be no time to answer."""
    app = ScriptedApp([late])
    known = Exchange(deadline=time.monotonic() + 7)

    with suppress(errors.ProviderUnavailableError):
        assert (await exchange(retrying(app), extra=[(EXCHANGE, known)])).status == 503

    assert len(app.asked) == 1


async def test_a_run_that_fails_after_the_client_left_is_not_repeated() -> None:
    """An app may learn of it by a ``send`` that fails, and raise something else for it."""
    app = ScriptedApp([DOWN])

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        scope[EXCHANGE].left = True
        await app(scope, receive, send)

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(retrying(leave))

    assert len(app.asked) == 1


async def test_large_rejected_response_is_let_through() -> None:
    """Not more than HELD bytes are kept of what may be thrown away."""
    app = ScriptedApp([Step(503, [b"x" * HELD, b"y"])])

    reply = await exchange(retrying(app))

    assert (reply.status, len(reply.body)) == (503, HELD + 1)


async def test_body_over_the_limit_is_tried_once_and_arrives_whole() -> None:
    """A body too large to keep is passed through, not cut."""
    app = ScriptedApp([503])

    reply = await exchange(retrying(app, max_body=4), b"abc", b"def", b"ghi")

    assert reply.status == 503
    assert [asked.body for asked in app.asked] == [b"abcdefghi"]


async def test_cancellation_stops_the_wait() -> None:
    """A cancelled exchange does not sleep on or try again."""
    app = ScriptedApp([Step(503, headers=[(b"retry-after", b"9")]), 200])

    with anyio.move_on_after(0.05) as cancelled:
        await exchange(retrying(app))

    assert cancelled.cancelled_caught
    assert len(app.asked) == 1


async def test_cancellation_leaves_a_running_attempt() -> None:
    """A cancelled attempt is not mistaken for a failed one."""
    calls: list[Scope] = []

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope)
        await anyio.sleep_forever()

    with anyio.move_on_after(0.05) as cancelled:
        await exchange(retrying(hang))

    assert cancelled.cancelled_caught
    assert len(calls) == 1


async def test_app_that_listens_until_the_client_leaves_is_repeated_too() -> None:
    """As Quart does: after a run's response its ``receive`` tells of a disconnect."""
    heard: list[str] = []

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        status = 503 if scope[ATTEMPT].number == 1 else 200

        async def respond() -> None:
            await anyio.lowlevel.checkpoint()
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(respond)
            heard.append((await receive())["type"])

    with anyio.fail_after(60):
        reply = await exchange(retrying(listen))

    assert reply.status == 200
    assert heard == ["http.disconnect"] * 2


@pytest.mark.parametrize("wait", [b"9", None])
async def test_client_that_leaves_ends_the_wait_and_the_run(wait: bytes | None) -> None:
    """While a retry waits, and while the app is silent, a leaving client is noticed."""
    left, calls = anyio.Event(), 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        left.set()
        if wait is None:
            await anyio.sleep_forever()
        headers = [(b"retry-after", wait or b"")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    told = False

    async def receive() -> Message:
        nonlocal told
        if not told:
            told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    known = Exchange()
    scope: Scope = {"type": "http", "headers": [], EXCHANGE: known}
    with anyio.fail_after(60):
        await retrying(app)(scope, receive, no_send)

    assert known.left
    assert calls == 1


async def test_every_run_gets_the_deployment_that_was_chosen_above() -> None:
    """A fresh Attempt for each run, at the same deployment."""
    place = Deployment("groq", "m")
    app = ScriptedApp([503, 200])

    await exchange(retrying(app), extra=[(ATTEMPT, Attempt(deployment=place))])

    first, second = (asked.scope[ATTEMPT] for asked in app.asked)
    assert first is not second
    assert (first.deployment, second.deployment) == (place, place)


async def test_exchange_knows_how_many_runs_and_which_answered() -> None:
    """Layers above tell of the accepted run only."""
    app = ScriptedApp([503, DOWN, 200])
    known = Exchange()

    await exchange(retrying(app), extra=[(EXCHANGE, known)])

    assert known.attempts == 3
    assert known.answer is not None
    assert (known.answer.number, known.answer.status) == (3, 200)


async def test_lone_error_of_a_task_group_is_retried() -> None:
    """Frameworks wrap what a handler raised."""
    app = ScriptedApp([ExceptionGroup("tasks", [DOWN]), b"good"])

    assert (await exchange(retrying(app))).body == b"good"


async def test_in_the_stack_the_last_error_is_the_answer() -> None:
    """Between RequestID and the app: one id, one answer, all attempts."""
    app = ScriptedApp([DOWN, DOWN, DOWN])
    layers = [
        layer(RequestIDMiddleware),
        layer(ErrorMapMiddleware),
        layer(RetryMiddleware, policy=AT_ONCE),
    ]

    reply = await exchange(stack(layers, app), headers=[(b"x-request-id", b"one")])

    assert (reply.status, reply.headers[b"x-request-id"]) == (502, b"one")
    assert len(app.asked) == 3


async def test_other_scope_types_pass_through() -> None:
    """A lifespan is not an exchange: one call, the same scope."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await retrying(note)(scope, no_receive, no_send)

    assert seen[0] is scope
