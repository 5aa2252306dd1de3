"""Sending a request again: how often, and never to itself; the gateway's app, real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any, Never

import anyio
import attrs
import httpx2
import pytest

from llmgw.apps.gateway import build
from llmgw.apps.settings import DeploymentSettings, Model, Retry, Settings, Timeouts
from llmgw.asgi import ASGIApp, Header
from llmgw.exchange import Deployment
from llmgw.names import names
from llmgw.providers import litellm
from llmgw.providers.gateway import default_providers
from llmgw.providers.openai import OpenAIProvider
from llmgw.testing import Reply, exchange
from llmgw.upstream import StaleConnectionError
from llmgw.wire import Call
from tests.e2e.conftest import Serve
from tests.servers import Server, free_port
from tests.upstreams.recorder import Recorder, Request, openai_chat
from tests.upstreams.recorder import Reply as Scripted
from tests.upstreams.wall import Wall

JSON = (b"content-type", b"application/json")
IDLE = 20  # connections that rest when the request comes
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def call(model: str = "m", *, stream: bool = False) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": model, "stream": stream, "messages": messages}).encode()


async def ask(app: ASGIApp, *, stream: bool = False, model: str = "m") -> Reply:
    with anyio.fail_after(60):
        return await exchange(app, call(model, stream=stream), headers=[JSON])


Gateway = Callable[..., AbstractAsyncContextManager[ASGIApp]]


@pytest.fixture
async def gateway() -> Gateway:
    """The gateway's app for one model ``m`` at these addresses."""

    @asynccontextmanager
    async def made(
        *bases: str,
        models: Sequence[str] = ("m0", "m1"),
        via: str = "openai",
        attempts: int = 3,
        limit_wait_s: float = 0,
        timeouts: Timeouts | None = None,
    ) -> AsyncGenerator[ASGIApp]:
        places = [
            DeploymentSettings(model=f"openai/{model}", api_base=f"{base}/v1", via=via)
            for base, model in zip(bases, models, strict=False)
        ]
        settings = Settings(
            models=[Model(name="m", deployments=places, limit_wait_s=limit_wait_s)],
            retry=Retry(backoff_s=0.001, attempts=attempts),
            timeouts=timeouts or Timeouts(),
        )
        await litellm.load()  # its import takes longer than a short clock
        providers = default_providers()
        yield build(settings, {}, providers)
        for provider in providers.values():
            await provider.aclose()

    return made


async def rest(app: ASGIApp, recorder: Recorder) -> None:
    """Leave IDLE kept connections, all of them good so far."""
    recorder.script.extend([Scripted(status=400, hold=0)] * IDLE)
    async with anyio.create_task_group() as tasks:
        for _ in range(IDLE):
            tasks.start_soon(ask, app)
        await recorder.until(lambda: len(recorder.requests) == IDLE)
        recorder.release()
    recorder.requests.clear()


@STREAMS
@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("fallback", [False, True])
async def test_a_request_is_not_written_to_every_kept_connection(
    gateway: Gateway, recorder: Recorder, stream: bool, attempts: int, fallback: bool
) -> None:
    """An upstream reads it and closes: the kept connection is replaced once, and that counts."""
    with Recorder() as other:
        bases = [recorder.url, other.url] if fallback else [recorder.url]
        async with gateway(*bases, attempts=attempts) as app:
            await rest(app, recorder)
            recorder.script.extend([Scripted(cut=0)] * 100)

            reply = await ask(app, stream=stream)

        assert len(recorder.requests) == max(2, attempts)
        assert len(other.requests) == int(fallback)
    assert reply.status == (200 if fallback else 502)


async def test_connections_that_others_give_back_meanwhile_are_not_used_up_either(
    recorder: Recorder,
) -> None:
    """Each attempt meets a kept connection that dies; there are three requests nevertheless."""
    sent = 0

    class Stale(OpenAIProvider):
        async def open(
            self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
        ) -> Never:
            nonlocal sent
            sent += 1
            raise StaleConnectionError("closed", provider="openai")

    places = [DeploymentSettings(model="openai/m", api_base=recorder.url)]
    settings = Settings(models=[Model(name="m", deployments=places)], retry=Retry(backoff_s=0.001))

    assert (await ask(build(settings, {}, {"openai": Stale()}))).status == 502
    assert sent == 3


@STREAMS
async def test_one_kept_connection_that_dies_is_no_failure(
    gateway: Gateway, recorder: Recorder, stream: bool
) -> None:
    """Even with one attempt; the client notices nothing."""
    async with gateway(recorder.url, attempts=1) as app:
        await rest(app, recorder)
        recorder.script.append(Scripted(cut=0))

        reply = await ask(app, stream=stream)

    assert reply.status == 200
    assert len(recorder.requests) == 2


GROUP = """
[[models]]
name = "gpt-4o"
[[models.deployments]]
model = "openai/gpt-4o"
api_base = "{base}/v1"
via = "{via}"
"""


# LiteLLM's import takes seconds, and twice as many through two gateways
PATIENT = {"LLMGW_TIMEOUTS__HOLD_S": "600", "LLMGW_TIMEOUTS__FIRST_TOKEN_S": "600"}


def served(server: Server) -> float:
    """How many model calls a gateway has answered, whatever came of them."""
    text = httpx2.get(f"{server.base_url}/metrics").text
    name = "http_server_request_duration_seconds_count"
    lines = [line for line in text.splitlines() if line.startswith(name) and "completions" in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("via", ["openai", "litellm", "environment"])
@pytest.mark.parametrize("hops", [1, 2])
def test_an_address_that_leads_back_is_a_508(serve: Serve, hops: int, via: str) -> None:
    """Directly, or through a second gateway; each sends a request on once."""
    ports = [free_port() for _ in range(hops)]
    with ExitStack() as stack:
        servers: list[Server] = []
        for number, port in enumerate(ports):
            base = f"http://127.0.0.1:{ports[(number + 1) % hops]}"
            config, env = GROUP.format(base=base, via=via), dict(PATIENT)
            if via == "environment":
                config = ""
                env |= {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": "sk-x"}
            servers.append(stack.enter_context(serve(config, env, port=port)))

        url = f"{servers[0].base_url}/v1/chat/completions"
        replies = [
            httpx2.post(
                url,
                content=call("gpt-4o", stream=stream),
                headers={"content-type": "application/json"},
                timeout=60,
            )
            for stream in (False, True)
        ]
        calls = [served(server) for server in servers]

    for reply in replies:
        assert (reply.status_code, reply.json()["error"]["code"]) == (508, "loop_detected")
        assert reply.headers["x-should-retry"] == "false"
    assert calls == ([4] if hops == 1 else [4, 2])


@STREAMS
async def test_one_clients_bad_requests_do_not_move_the_others(
    gateway: Gateway, recorder: Recorder, stream: bool
) -> None:
    """A picture for a text-only server is a 500 each time; the text of others is not its fault."""
    with Recorder() as other:
        async with gateway(recorder.url, other.url) as app:
            for _ in range(6):
                recorder.script.extend([Scripted(status=500)] * 3)
                await ask(app, stream=stream)
                recorder.requests.clear()
                for _ in range(2):
                    await ask(app, stream=stream)
                assert len(recorder.requests) == 2
            assert len(other.requests) == 6


@pytest.mark.parametrize("via", ["openai", "litellm"])
async def test_a_name_that_hangs_does_not_stop_other_upstreams(
    gateway: Gateway, recorder: Recorder, via: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve requests to it, more than the loop has threads for look-ups; then one elsewhere."""
    go_on, real = threading.Event(), socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host in ("hangs.example", b"hangs.example"):
            go_on.wait(60)
        return real("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    names.clear()
    bad, good = f"http://hangs.example:{recorder.port}", f"http://well.example:{recorder.port}"
    async with (
        gateway(bad, via=via) as hanging,
        gateway(good, via=via) as app,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(12):
            tasks.start_soon(ask, hanging)
        await anyio.wait_all_tasks_blocked()
        assert (await ask(app)).status == 200
        go_on.set()
    names.clear()


LIMITS = {
    "x-ratelimit-limit-requests": "10",
    "x-ratelimit-remaining-tokens": "7",
    "openai-processing-ms": "5",
}


@STREAMS
@pytest.mark.parametrize("via", ["openai", "litellm"])
@pytest.mark.parametrize("status", [200, 400, 429, 500])
async def test_the_upstreams_rate_limits_reach_the_client(
    gateway: Gateway, recorder: Recorder, stream: bool, via: str, status: int
) -> None:
    """On every status."""
    if status == 200:
        request = Request("POST", "/v1/chat/completions", "", {}, call(stream=stream))
        good = openai_chat(request)
        recorder.script.append(attrs.evolve(good, headers={**good.headers, **LIMITS}))
    else:
        recorder.script.extend([Scripted(status=status, headers=LIMITS)] * 3)

    async with gateway(recorder.url, via=via) as app:
        reply = await ask(app, stream=stream)

    assert reply.status == (502 if status == 500 else status)
    shown = {name.decode(): value.decode() for name, value in reply.headers.items()}
    assert LIMITS.items() <= shown.items()


@pytest.mark.parametrize("via", ["openai", "litellm"])
@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"retry-after": "20"}, "20"),
        ({"retry-after-ms": "15500"}, "16"),
        ({"x-ms-retry-after-ms": "15500"}, "16"),
        ({"retry-after": "Fri, 31 Dec 2999 23:59:59 GMT"}, "3600"),
        ({"retry-after": "1e9"}, "3600"),
        ({"retry-after": "20", "retry-after-ms": "soon"}, "20"),
    ],
)
async def test_when_to_come_back_is_told_in_seconds(
    gateway: Gateway, recorder: Recorder, via: str, headers: dict[str, str], told: str
) -> None:
    """Whatever form the upstream uses, an hour at most; it is too long to wait for it here."""
    recorder.script.extend([Scripted(status=429, headers=headers)] * 3)

    async with gateway(recorder.url, via=via) as app:
        reply = await ask(app)

    assert (reply.status, reply.headers[b"retry-after"]) == (429, told.encode())
    assert len(recorder.requests) == 1


@pytest.mark.parametrize("via", ["openai", "litellm"])
async def test_a_short_limit_is_waited_out_where_the_group_says_so(
    gateway: Gateway, recorder: Recorder, via: str
) -> None:
    """Up to ``limit_wait_s``; a longer one goes to the next deployment at once."""
    recorder.script.append(Scripted(status=429, headers={"retry-after-ms": "50"}))
    with Recorder() as other:
        async with gateway(recorder.url, other.url, via=via, limit_wait_s=1) as app:
            await ask(app)
            assert (len(recorder.requests), len(other.requests)) == (2, 0)

            recorder.script.append(Scripted(status=429, headers={"retry-after": "2"}))
            await ask(app)
            assert (len(recorder.requests), len(other.requests)) == (3, 1)


async def test_a_limit_that_one_request_meets_is_kept_by_all(
    gateway: Gateway, recorder: Recorder
) -> None:
    """Eighty requests: one is told to come back, and none is sent before the time has come."""
    recorder.script.append(Scripted(status=429, headers={"retry-after-ms": "2500"}))
    async with gateway(recorder.url) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, app)
        await recorder.until(lambda: recorder.answered == 1)
        await anyio.wait_all_tasks_blocked()
        for _ in range(79):
            tasks.start_soon(ask, app)
        await anyio.wait_all_tasks_blocked()
        assert len(recorder.requests) == 1

    assert len(recorder.requests) == 81


SHORT = Timeouts(
    first_token_s=600,
    failover_first_token_s=0.3,
    idle_s=0.5,
    answer_s=600,
    failover_first_byte_s=0.3,
    total_s=600,
)


@pytest.mark.slow
@STREAMS
@pytest.mark.parametrize("via", ["openai", "litellm"])
@pytest.mark.parametrize(
    ("fault", "alone", "with_another"),
    [
        ("silence", None, 200),  # None: nobody waits for ten minutes here
        ("headers-then-silence", 504, 200),
        ("slow-first@1", 200, 200),
        ("stall", 504, 200),
        ("well", 200, 200),
    ],
)
async def test_the_clocks_are_shorter_while_another_deployment_is_left(
    gateway: Gateway, fault: str, via: str, stream: bool, alone: int | None, with_another: int
) -> None:
    """A lone deployment keeps the long ones; what was silent is asked once."""
    if stream and fault == "headers-then-silence":
        alone = None  # a stream's first token has its clock, however early the headers come
    if via == "litellm" and not stream and fault != "slow-first@1" and fault != "well":
        alone = None  # LiteLLM does not show the bytes of a whole answer
    with Wall() as wall:
        if alone is not None:
            async with gateway(wall.url, models=[fault], via=via, timeouts=SHORT) as app:
                reply = await ask(app, stream=stream)
            begun = stream and fault == "stall"
            assert reply.status == (200 if begun else alone)
            assert (b"timeout_error" in reply.body) is (alone == 504)
            assert len(wall.of(fault)) == 1
        wall.reset()
        bases = [wall.url, wall.url]
        async with gateway(*bases, models=[fault, "well"], via=via, timeouts=SHORT) as app:
            reply = await ask(app, stream=stream)

        assert reply.status == with_another
        assert len(wall.of(fault)) == 1
