"""The laws that one fault alone does not show: recovery, hold, leaving, load."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from openai import OpenAI

from llmgw.apps.gateway import build
from llmgw.apps.settings import DeploymentSettings, Model, Settings, Timeouts
from llmgw.providers.gateway import default_providers
from tests.e2e.conftest import Serve
from tests.servers import Server, free_port
from tests.upstreams.wall import TEXT, Attempt, Wall

CONFIG = """
[timeouts]
first_token_s = 2
idle_s = 30
hold_s = 0.3
heartbeat_s = 0.1

[cooldown]
for_s = 0.5
{groups}
"""
GROUPS = {
    "down": ("503", "well"),
    "limited": ("429-after@30", "well"),
    "mute": ("silence", "well"),
    "mute-litellm": ("silence", "well"),
    "flapping": ("flapping@1.2", "well"),
    "slow": ("slow-first@1",),
    "slow-then-down": ("slow-first@1", "503"),
    "stall": ("stall",),
    "stall-litellm": ("stall",),
    "endless": ("endless@0.01",),
    "limited-alone": ("429-after@8",),
}


def config(wall: Wall) -> str:
    places = [
        f'[[models]]\nname = "{name}"\n'
        + "".join(
            f'[[models.deployments]]\nmodel = "openai/{model}:{name}"\napi_base = "{wall.url}/v1"\n'
            + ('via = "litellm"\n' if "litellm" in name else "")
            for model in models
        )
        for name, models in GROUPS.items()
    ]
    return CONFIG.format(groups="".join(places))


SERVERS = {
    "uvicorn": ("-m", "llmgw", "serve", "--port", "{port}"),
    "hypercorn on trio": (
        *("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}"),
        "llmgw.apps.gateway:app",
    ),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    with Wall() as running:
        yield running


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, serve: Serve, wall: Wall) -> Iterator[Server]:
    with serve(config(wall), argv=SERVERS[request.param]) as running:
        with ask(running, "mute-litellm") as response:  # LiteLLM's import is not measured
            response.read()
        yield running
        wall.reset()


@contextlib.contextmanager
def ask(server: Server, model: str, *, stream: bool = True) -> Generator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    try:
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def client_of(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.base_url}/v1", api_key="none", timeout=30)


def seconds(server: Server, model: str) -> float:
    """How long a complete answer takes."""
    began = time.monotonic()
    with client_of(server) as client:
        chunks = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == TEXT
    return time.monotonic() - began


@pytest.mark.parametrize(("model", "limit"), [("down", 2.5), ("limited", 0.5)])
def test_a_failing_deployment_is_left_soon_with_the_defaults(
    server: Server, model: str, limit: float
) -> None:
    """Two backoffs for one that is down; a limited one at once; and then both are left alone."""
    first = seconds(server, model)
    later = [seconds(server, model) for _ in range(3)]

    assert first < limit
    assert min(later) < 0.3


def test_a_silent_deployment_costs_one_first_token(server: Server) -> None:
    """Never several: who waited in vain does not wait for the same again."""
    assert 2 <= seconds(server, "mute") < 3.5


def test_while_the_primary_is_down_nobody_waits_and_then_it_is_back(
    server: Server, wall: Wall
) -> None:
    """Every request is answered; within one cooldown of its recovery the primary answers again."""
    name = "flapping@1.2:flapping"
    began = time.monotonic()
    slowest = 0.0
    while time.monotonic() < began + 1.2:
        slowest = max(slowest, seconds(server, "flapping"))
    while not any(attempt.tokens_sent for attempt in wall.of(name)):
        seconds(server, "flapping")
        assert time.monotonic() < began + 4
    failed = [attempt for attempt in wall.of(name) if not attempt.tokens_sent]

    assert slowest < 2.5
    assert len(failed) <= 3 + 3  # three to open it, then one probe each half second
    assert time.monotonic() - began < 1.2 + 0.5 + 2


def test_a_slow_stream_is_held_open_with_comments(server: Server) -> None:
    """200 and comments while it waits; the SDK sees the answer, whole."""
    with ask(server, "slow") as response:
        began = time.monotonic()
        first = response.readline()
        at = time.monotonic() - began
        body = response.read()

    assert first == b": keepalive\n"
    assert at < 0.7
    assert body.count(b": keepalive") >= 2
    assert body.endswith(b"data: [DONE]\n\n")
    assert seconds(server, "slow") >= 1


def test_what_is_no_stream_is_not_held(server: Server) -> None:
    """One JSON body, after its time."""
    with ask(server, "slow", stream=False) as response:
        assert response.status == 200
        assert json.load(response)["choices"][0]["message"]["content"] == TEXT


def closed_within(wall: Wall, attempts: list[Attempt], limit: float) -> None:
    wall.wait_until(lambda: all(one.closed_at is not None for one in attempts), limit)


@pytest.mark.parametrize("model", ["mute", "mute-litellm", "stall", "stall-litellm", "endless"])
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_closes_the_upstream_within_a_second(
    server: Server, wall: Wall, model: str, stream: bool
) -> None:
    """Before the headers, before the first token, midway; on both paths and both loops."""
    name = f"{GROUPS[model][0]}:{model}"
    before = len(wall.of(name))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    if "mute" in model:  # it may be cooling after other tests: then the next one answers
        wall.wait_until(lambda: len(wall.attempts) > 0)
    else:
        wall.wait_until(lambda: len(wall.of(name)) > before)

    connection.close()

    closed_within(wall, [one for one in wall.attempts if one.model == name], 1.0)


def test_leaving_while_a_retry_waits_ends_it(server: Server, wall: Wall) -> None:
    """No second attempt is made for nobody."""
    name = "429-after@8:limited-alone"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = {"model": "limited-alone", "messages": [{"role": "user", "content": "hi"}]}
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    wall.wait_until(lambda: len(wall.of(name)) > 0)

    connection.close()

    wait_for_no_requests(server)
    assert len(wall.of(name)) == 1, [(one.at, one.closed_at) for one in wall.of(name)]
    wall.reset()


def metric(server: Server, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/metrics")
    with connection.getresponse() as response:
        lines = response.read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_for_no_requests(server: Server, limit: float = 5.0) -> None:
    """But the one that asks."""
    end = time.monotonic() + limit
    while metric(server, "http_server_active_requests") > 1:
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def files(server: Server) -> int:
    """Open files and sockets of the process."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def http_of(port: int, model: str) -> bytes:
    """A streamed request, byte for byte."""
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": model, "stream": True, "messages": messages})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def abort(port: int, model: str, wait: float) -> None:
    """Send a request, wait, hang up."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(http_of(port, model))
        threading.Event().wait(wait)


ABORTED = 1000


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files in /proc")
def test_a_thousand_aborted_requests_leave_nothing(server: Server, wall: Wall) -> None:
    """No request, no socket, no upstream connection."""
    dice = random.Random(7)
    models = ["endless", "stall", "slow", "slow-then-down"]
    jobs = [(dice.choice(models), dice.random() * 0.05) for _ in range(ABORTED)]
    with ThreadPoolExecutor(32) as pool:
        for job in [pool.submit(abort, server.port, *job) for job in jobs[:50]]:
            job.result()
        wait_for_no_requests(server)
        before = files(server)
        for job in [pool.submit(abort, server.port, *job) for job in jobs[50:]]:
            job.result()

    wait_for_no_requests(server)
    running = {attempt for attempt in wall.attempts if attempt.closed_at is None}
    closed_within(wall, [one for one in running if not one.tokens_sent], 5)
    assert files(server) <= before + 5


STALLED = 200


def test_health_answers_at_once_with_two_hundred_stalled_streams(
    server: Server, wall: Wall
) -> None:
    """A few milliseconds; the bound is a quarter of a second."""
    connections: list[socket.socket] = []
    sent = http_of(server.port, "stall")
    try:
        for _ in range(STALLED):
            connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            connections[-1].sendall(sent)
        for connection in connections:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        took: list[float] = []
        for _ in range(20):
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as probe:
                probe.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert probe.recv(100).startswith(b"HTTP/1.1 200")
            took.append(time.monotonic() - began)
    finally:
        for connection in connections:
            connection.close()
    print(f"health with {STALLED} stalled streams: median {sorted(took)[10] * 1000:.1f} ms")

    assert max(took) < 0.25


async def test_no_task_is_left_after_aborted_requests(wall: Wall, anyio_backend_name: str) -> None:
    """Counted in the event loop itself, where it is ours to look into."""
    if anyio_backend_name != "asyncio":
        pytest.skip("uvicorn runs on asyncio; on trio nothing can outlive its nursery")
    places = [DeploymentSettings(model="openai/endless@0.01", api_base=f"{wall.url}/v1")]
    settings = Settings(
        models=[Model(name="endless", deployments=places)], timeouts=Timeouts(hold_s=0.02)
    )
    providers = default_providers()
    app = build(settings, {}, providers)
    port = free_port()
    serving = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_level="warning"))
    serving.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(serving.serve())
    while not serving.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    before = len(asyncio.all_tasks())

    for _ in range(100):
        await asyncio.to_thread(abort, port, "endless", 0.01)
    for _ in range(200):
        if len(asyncio.all_tasks()) <= before:
            break
        await asyncio.sleep(0.02)
    left = len(asyncio.all_tasks()) - before
    serving.should_exit = True
    await task
    for provider in providers.values():
        await provider.aclose()

    assert left <= 0
