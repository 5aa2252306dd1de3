"""FallbackMiddleware: the next deployment when one fails, and peace for what keeps failing."""

from __future__ import annotations

import anyio
import pytest

from llmgw import errors, layer, stack
from llmgw.asgi import START, ASGIApp, Message, Receive, Scope, Send, respond
from llmgw.body import Body
from llmgw.cooldown import Admission, MemoryCooldown
from llmgw.errors import GatewayError
from llmgw.exchange import ATTEMPT, EXCHANGE, Deployment, Exchange
from llmgw.middlewares.fallback import FallbackMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.retrying import RetryPolicy
from llmgw.routing import Candidate
from llmgw.testing import ScriptedApp, Step, exchange, no_receive, no_send

DOWN = errors.ProviderUnavailableError("down", provider="a")
PLACES = [Candidate(Deployment(name, "m", name=name), name) for name in "abc"]


def falling(
    app: ASGIApp, places: list[Candidate] | None = None, cooldown: MemoryCooldown | None = None
) -> FallbackMiddleware:
    given = PLACES if places is None else places
    return FallbackMiddleware(
        app, candidates=lambda exchange: given, cooldown=cooldown or MemoryCooldown(), attempts=6
    )


def body_of(data: bytes) -> Body:
    return Body(data, True, False, no_receive, watched=True)


def asked(app: ScriptedApp) -> list[str]:
    """The deployments, in the order in which they were asked."""
    return [one.scope[ATTEMPT].deployment.provider for one in app.asked]


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        errors.TimeoutError("x", provider="a"),
        errors.RateLimitError("x", provider="a"),
        errors.AuthError("x", provider="a"),
        errors.NotFoundError("x", provider="a"),
        errors.InvalidRequestError("x", code="context_length_exceeded", provider="a"),
    ],
)
async def test_what_another_may_answer_is_asked_of_the_next(error: GatewayError) -> None:
    """The same body, the next deployment."""
    app = ScriptedApp([error, b"good"])

    reply = await exchange(falling(app), b"body")

    assert reply.body == b"good"
    assert asked(app) == ["a", "b"]
    assert [one.body for one in app.asked] == [b"body"] * 2


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequestError("x"),
        errors.InvalidRequestError("x", code="content_policy_violation"),
        errors.AuthError("x"),
        errors.RateLimitError("x"),
    ],
)
async def test_what_holds_everywhere_is_not(error: GatewayError) -> None:
    """The request's own fault, and our own limits."""
    app = ScriptedApp([error])

    with pytest.raises(type(error)):
        await exchange(falling(app))


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_a_foreign_app_is_judged_by_its_status(status: int) -> None:
    """An app that raises nothing of ours."""
    app = ScriptedApp([Step(status, [b"bad"]), b"good"])

    assert (await exchange(falling(app))).body == b"good"


@pytest.mark.parametrize("status", [200, 400, 404, 500])
async def test_other_statuses_are_answers(status: int) -> None:
    """They go out at once."""
    assert (await exchange(falling(ScriptedApp([status])))).status == status


async def test_the_last_failure_goes_out() -> None:
    """An error as it was raised, a response as it was."""
    last = errors.TimeoutError("last", provider="c")
    with pytest.raises(errors.TimeoutError) as caught:
        await exchange(falling(ScriptedApp([DOWN, 503, last])))
    assert caught.value is last

    reply = await exchange(falling(ScriptedApp([DOWN, DOWN, Step(503, [b"last"])])))
    assert (reply.status, reply.body) == (503, b"last")


async def test_without_a_deployment_the_model_is_not_there() -> None:
    """An empty group."""
    with pytest.raises(errors.NotFoundError):
        await exchange(falling(ScriptedApp([]), []))


async def test_an_app_that_answers_nothing_is_no_failure() -> None:
    """Whoever noticed that the client left returns so."""
    calls: list[Scope] = []

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope)

    cooldown = MemoryCooldown(1)
    scope: Scope = {"type": "http", "headers": []}
    inbox: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        return inbox.pop()

    await falling(silent, cooldown=cooldown)(scope, receive, no_send)

    assert len(calls) == 1
    assert cooldown.healthy("a")


async def test_a_begun_response_is_never_asked_of_another() -> None:
    """What has begun is the client's."""
    app = ScriptedApp([Step(200, [b"half"], error=DOWN)])

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(falling(app))


async def test_a_body_over_the_limit_has_one_deployment() -> None:
    """It cannot be sent twice; the response is not held."""
    app = ScriptedApp([503])
    big = FallbackMiddleware(app, candidates=lambda exchange: PLACES, max_body=2)

    reply = await exchange(big, b"abc", b"def")

    assert reply.status == 503
    assert [one.body for one in app.asked] == [b"abcdef"]


async def test_a_foreign_apps_rejected_responses_are_retried_then_asked_of_the_next() -> None:
    """Retry and Fallback hold the same response once; nothing of it comes with the good one."""
    app = ScriptedApp([*[Step(503, [b"bad"])] * 3, b"good"])
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES),
        layer(RetryMiddleware, policy=RetryPolicy(attempts=3, backoff=0)),
    ]

    reply = await exchange(stack(layers, app))

    assert (reply.status, reply.body) == (200, b"good")
    assert asked(app) == ["a"] * 3 + ["b"]


async def test_the_last_rejected_response_of_the_last_deployment_goes_out_once() -> None:
    """Whole, after all retries."""
    app = ScriptedApp([503, 503, 503, Step(504, [b"the", b" last"])])
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES[:2]),
        layer(RetryMiddleware, policy=RetryPolicy(attempts=2, backoff=0)),
    ]

    reply = await exchange(stack(layers, app))

    assert (reply.status, reply.body) == (504, b"the last")
    assert [message["type"] for message in reply.messages].count(START) == 1


async def test_a_layer_between_that_answers_for_the_failed_run_is_not_mixed_with_it() -> None:
    """What the failed run had sent is gone."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await retry(scope, receive, send)
        except errors.InvalidRequestError:
            await respond(send, 503, b"mine")

    half = Step(503, [b"half"], error=errors.InvalidRequestError("x"))
    retry = RetryMiddleware(ScriptedApp([half]), policy=RetryPolicy(backoff=0))

    reply = await exchange(falling(answering, PLACES[:1]))

    assert (reply.status, reply.body) == (503, b"mine")
    assert [message["type"] for message in reply.messages].count(START) == 1


async def test_a_rejected_run_is_not_the_answer_when_the_next_fails() -> None:
    """Else the books would say that the first deployment failed twice."""
    app = ScriptedApp([Step(503, [b"no"]), DOWN])
    known = Exchange()
    falls = falling(RetryMiddleware(app, policy=RetryPolicy(attempts=1)), PLACES[:2])

    with pytest.raises(errors.ProviderUnavailableError, match="down"):
        await falls({"type": "http", EXCHANGE: known}, body_of(b"{}"), no_send)

    assert (known.answer, known.attempts) == (None, 2)


async def test_one_budget_spans_retries_and_fallbacks() -> None:
    """Three at each, six in all: the third deployment is not asked."""
    app = ScriptedApp([DOWN] * 6)
    policy = RetryPolicy(attempts=3, backoff=0)
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES, attempts=6),
        layer(RetryMiddleware, policy=policy),
    ]
    known = Exchange()

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(stack(layers, app), extra=[(EXCHANGE, known)])

    assert asked(app) == ["a"] * 3 + ["b"] * 3
    assert known.attempts == 6


async def test_the_budget_cuts_the_last_deployments_retries() -> None:
    """Four in all: three and one."""
    app = ScriptedApp([DOWN] * 4)
    policy = RetryPolicy(attempts=3, backoff=0)
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES, attempts=4),
        layer(RetryMiddleware, policy=policy),
    ]

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(stack(layers, app))

    assert asked(app) == ["a"] * 3 + ["b"]


async def test_a_limit_is_not_waited_for_when_there_is_another() -> None:
    """Retry leaves a 429 to Fallback, which waits only when all are limited."""
    limited = errors.RateLimitError("x", provider="a", retry_after=0)
    app = ScriptedApp([limited, limited, b"good"])
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES[:2]),
        layer(RetryMiddleware, policy=RetryPolicy(attempts=3, backoff=0)),
    ]

    assert (await exchange(stack(layers, app))).body == b"good"
    assert asked(app) == ["a", "b", "a"]


async def test_a_deployment_that_keeps_failing_is_left_alone() -> None:
    """Three requests that fail open it: then the next is asked at once, and it is not."""
    app = ScriptedApp([DOWN, b"1", DOWN, b"2", DOWN, b"3", b"4", b"5"])
    fallback = falling(app)

    for _ in range(5):
        assert (await exchange(fallback)).status == 200

    assert asked(app) == ["a", "b", "a", "b", "a", "b", "b", "b"]


async def test_one_request_counts_once_however_often_it_is_repeated() -> None:
    """A client whose requests fail everywhere takes the deployment from nobody else."""
    app = ScriptedApp([*[DOWN] * 3, b"1", b"2"])
    cooldown = MemoryCooldown(3)
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES[:2], cooldown=cooldown),
        layer(RetryMiddleware, policy=RetryPolicy(attempts=3, backoff=0)),
    ]

    for _ in range(2):
        await exchange(stack(layers, app))

    assert asked(app) == ["a"] * 3 + ["b", "a"]


async def test_a_lone_deployment_that_cools_keeps_its_retries() -> None:
    """What fails at random is not worse off for its cooldown."""
    app = ScriptedApp([DOWN, DOWN, DOWN, DOWN, DOWN, b"good"])
    cooldown = MemoryCooldown(1)
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES[:1], cooldown=cooldown),
        layer(RetryMiddleware, policy=RetryPolicy(attempts=3, backoff=0)),
    ]

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(stack(layers, app))
    assert (await exchange(stack(layers, app))).body == b"good"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_lone_limited_deployment_is_waited_for(status: int) -> None:
    """By the request that was told, and by the next one, which does not ask meanwhile."""
    busy = Step(status, headers=[(b"retry-after-ms", b"500")])
    app = ScriptedApp([busy, b"first", b"second"])
    fallback = falling(app, PLACES[:1])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange, fallback)
        await anyio.wait_all_tasks_blocked()
        assert len(app.asked) == 1
        tasks.start_soon(exchange, fallback)

    assert len(app.asked) == 3


async def test_a_long_limit_is_for_the_client_to_wait() -> None:
    """The second request is refused without being sent."""
    app = ScriptedApp([errors.RateLimitError("x", provider="a", retry_after=60)])
    fallback = falling(app, PLACES[:1])

    for _ in range(2):
        with pytest.raises(errors.RateLimitError) as caught:
            await exchange(fallback)
        assert caught.value.retry_after is not None
        assert 30 < caught.value.retry_after <= 60

    assert len(app.asked) == 1


async def test_one_request_probes_and_success_takes_it_back() -> None:
    """After the pause one is sent there, with one attempt; others go on to the next meanwhile."""
    now = 0.0
    cooldown = MemoryCooldown(1, 10, clock=lambda: now)
    probing, end = anyio.Event(), anyio.Event()
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope[ATTEMPT].deployment.provider
        order.append(name)
        if name == "a" and now == 0:
            raise DOWN
        if name == "a" and not probing.is_set():
            probing.set()
            await end.wait()
        await ScriptedApp([200])(scope, receive, send)

    fallback = falling(app, PLACES[:2], cooldown)
    await exchange(fallback)
    now = 10.0
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange, fallback)
            await probing.wait()
            await exchange(fallback)
            end.set()
        await exchange(fallback)

    assert order == ["a", "b", "a", "b", "a"]


async def test_a_probe_has_one_attempt() -> None:
    """A deployment that is still down costs one request one attempt, not three."""
    now = 0.0
    cooldown = MemoryCooldown(1, 10, clock=lambda: now)
    app = ScriptedApp([DOWN, DOWN, DOWN, b"1", DOWN, b"2"])
    layers = [
        layer(FallbackMiddleware, candidates=lambda exchange: PLACES[:2], cooldown=cooldown),
        layer(RetryMiddleware, policy=RetryPolicy(attempts=3, backoff=0)),
    ]
    whole = stack(layers, app)

    await exchange(whole)
    now = 10.0
    await exchange(whole)

    assert asked(app) == ["a", "a", "a", "b", "a", "b"]


async def test_a_probe_whose_client_left_is_given_back() -> None:
    """The next request may probe."""
    now = 0.0
    cooldown = MemoryCooldown(1, 10, clock=lambda: now)
    hang = anyio.Event()
    calls: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope[ATTEMPT].deployment.provider)
        if len(calls) == 1:
            raise DOWN
        if len(calls) == 3:
            hang.set()
            await anyio.sleep_forever()
        await ScriptedApp([200])(scope, receive, send)

    fallback = falling(app, PLACES[:2], cooldown)
    await exchange(fallback)
    now = 10.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange, fallback)
        await hang.wait()
        tasks.cancel_scope.cancel()
    await exchange(fallback)

    assert calls == ["a", "b", "a", "a"]


async def test_a_limit_cools_for_as_long_as_it_says() -> None:
    """One 429 with Retry-After is enough."""
    now = 0.0
    cooldown = MemoryCooldown(3, 10, clock=lambda: now)
    limited = errors.RateLimitError("x", provider="a", retry_after=30)
    app = ScriptedApp([limited, b"", b"", b""])
    fallback = falling(app, PLACES[:2], cooldown)

    await exchange(fallback)
    now = 29.0
    await exchange(fallback)
    now = 30.0
    await exchange(fallback)

    assert asked(app) == ["a", "b", "b", "a"]


async def test_if_all_cool_they_are_asked_nevertheless() -> None:
    """Better a try than a sure refusal."""
    cooldown = MemoryCooldown(1)
    app = ScriptedApp([DOWN, DOWN, DOWN, b"good"])
    fallback = falling(app, PLACES[:2], cooldown)

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(fallback)
    assert (await exchange(fallback)).body == b"good"

    assert asked(app) == ["a", "b", "a", "b"]


async def test_a_store_that_must_be_awaited_is_asked_and_told() -> None:
    """One on a server never knows at once who is healthy."""
    heard: list[tuple[str, str]] = []

    class Remote(MemoryCooldown):
        def healthy(self, name: str) -> bool:
            return False

        async def admit(self, name: str, *, last: bool = False) -> Admission:
            heard.append(("admit", name))
            return await super().admit(name, last=last)

        async def success(self, name: str, *, probe: bool = False) -> None:
            heard.append(("success", name))
            await super().success(name, probe=probe)

        async def failure(self, name: str, *, begun: bool = False) -> None:
            heard.append(("failure", name))
            await super().failure(name, begun=begun)

    await exchange(falling(ScriptedApp([DOWN, b"good"]), cooldown=Remote()))

    assert heard == [("admit", "a"), ("failure", "a"), ("admit", "b"), ("success", "b")]


async def test_a_wrong_request_says_nothing_of_the_deployment() -> None:
    """However often: it does not cool."""
    app = ScriptedApp([*[errors.InvalidRequestError("x")] * 4, b"good"])
    fallback = falling(app)

    for _ in range(4):
        with pytest.raises(errors.InvalidRequestError):
            await exchange(fallback)
    await exchange(fallback)

    assert asked(app) == ["a"] * 5


async def test_streams_that_break_cool_too() -> None:
    """A deployment that begins well and breaks each time is no better than one that is down."""
    broken = Step(200, [b"half"], error=DOWN)
    app = ScriptedApp([broken, broken, broken, b"good"])
    fallback = falling(app, PLACES[:2])

    for _ in range(3):
        with pytest.raises(errors.ProviderUnavailableError):
            await exchange(fallback)
    await exchange(fallback)

    assert asked(app) == ["a", "a", "a", "b"]


async def test_load_is_counted_while_a_request_runs() -> None:
    """By it the strategies choose; it falls back to nothing however a run ends."""
    seen: list[int] = []
    places = [Candidate(Deployment("a", "m"), "a")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(places[0].load.running)
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await exchange(falling(app, places))

    assert seen == [1]
    assert places[0].load.running == 0


async def test_latency_is_that_to_the_first_message() -> None:
    """Not to the end of a long stream."""
    places = [Candidate(Deployment("a", "m"), "a")]
    seen: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(places[0].load.latency)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append(places[0].load.latency)
        await anyio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})

    await exchange(falling(app, places))

    assert seen[0] == 0 < seen[1] == places[0].load.latency


async def test_a_client_that_leaves_ends_the_walk() -> None:
    """No next deployment is asked for nobody, and nobody is blamed."""
    cooldown = MemoryCooldown(1)
    known, begun = Exchange(), anyio.Event()
    calls = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        begun.set()
        await anyio.sleep_forever()

    inbox: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    with anyio.fail_after(60):
        scope: Scope = {"type": "http", "headers": [], EXCHANGE: known}
        await falling(app, cooldown=cooldown)(scope, receive, no_send)

    assert (known.left, calls) == (True, 1)
    assert not (await cooldown.admit("a")).wait


async def test_a_run_that_fails_after_the_client_left_ends_the_walk() -> None:
    """Nobody waits for the next deployment's answer, and the failure says nothing of the first."""
    cooldown = MemoryCooldown(1)
    app = ScriptedApp([DOWN])

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        scope[EXCHANGE].left = True
        await app(scope, receive, send)

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(falling(leave, cooldown=cooldown))

    assert asked(app) == ["a"]
    assert not (await cooldown.admit("a")).wait


async def test_a_fallback_within_another_leaves_it_its_attempt() -> None:
    """What stood in the scope stands there again."""
    seen: list[str | None] = []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[ATTEMPT].deployment.provider)
        await falling(ScriptedApp([b"good"]), [PLACES[1]])(scope, receive, send)
        seen.append(scope[ATTEMPT].deployment.provider)

    await exchange(falling(outer, [PLACES[0]]), b"body")

    assert seen == ["a", "a"]


async def test_other_scope_types_pass_through() -> None:
    """A lifespan has no deployment."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await falling(note)(scope, no_receive, no_send)

    assert seen[0] is scope
