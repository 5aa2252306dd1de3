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
from tests.waits import until

CONFIG = """
[retry]
retry_after_max_s = 300

[timeouts]
first_token_s = 600
idle_s = 600
answer_s = 600
hold_s = 0.3
heartbeat_s = 0.1

[cooldown]
for_s = {cooldown}
{groups}
"""
COOLDOWN = 0.5  # seconds
GROUPS = {
    "down": ("503", "well"),
    "limited": ("429-after@300", "well"),
    "well-litellm": ("well",),
    "mute": ("silence",),
    "mute-litellm": ("silence",),
    "flapping": ("flapping@1.2", "well"),
    "slow": ("slow-first@2",),
    "slow-then-down": ("slow-first@2", "503"),
    "stall": ("stall",),
    "stall-litellm": ("stall",),
    "endless": ("endless@0.01",),
    "limited-alone": ("429-after@120",),
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
    return CONFIG.format(groups="".join(places), cooldown=COOLDOWN)


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
        with ask(running, "well-litellm") as response:  # LiteLLM's import takes seconds
            response.read()
        yield running
        wall.reset()


@contextlib.contextmanager
def ask(server: Server, model: str, *, stream: bool = True) -> Generator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    try:
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def client_of(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.base_url}/v1", api_key="none", timeout=60)


def answered(server: Server, model: str) -> None:
    """Ask for a stream and see that it is whole."""
    with client_of(server) as client:
        chunks = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == TEXT


def probes(began: float) -> int:
    """How often a deployment that cools may have been tried since ``began``."""
    return 1 + int((time.monotonic() - began) / COOLDOWN)


def test_a_deployment_that_is_down_is_left_alone(server: Server, wall: Wall) -> None:
    """Three attempts of three requests; then it is only probed, and every request is answered."""
    name = "503:down"
    began = time.monotonic()
    for _ in range(3):
        answered(server, "down")
    assert len(wall.of(name)) == 9

    for _ in range(5):
        answered(server, "down")

    assert len(wall.of(name)) <= 9 + probes(began)


def test_a_limited_deployment_is_asked_once(server: Server, wall: Wall) -> None:
    """Its Retry-After is believed at once."""
    for _ in range(4):
        answered(server, "limited")

    assert len(wall.of("429-after@300:limited")) == 1


def test_while_the_primary_is_down_nobody_fails_and_then_it_is_back(
    server: Server, wall: Wall
) -> None:
    """Every request is answered; after its recovery a probe finds it, and it answers again."""
    name = "flapping@1.2:flapping"
    began = time.monotonic()
    while not any(attempt.tokens_sent for attempt in wall.of(name)):
        answered(server, "flapping")
        assert time.monotonic() < began + 60
    failed = [attempt for attempt in wall.of(name) if not attempt.tokens_sent]

    assert len(failed) <= 9 + probes(began)  # three requests open it, then one probe at a time


def test_a_slow_stream_is_held_open_with_comments(server: Server) -> None:
    """200 and comments while it waits; the SDK sees the answer, whole."""
    with ask(server, "slow") as response:
        first = response.readline()
        body = response.read()

    assert first == b": keepalive\n"
    assert body.count(b": keepalive") >= 2
    assert body.endswith(b"data: [DONE]\n\n")
    answered(server, "slow")


def test_what_is_no_stream_is_not_held(server: Server) -> None:
    """One JSON body, after its time."""
    with ask(server, "slow", stream=False) as response:
        assert response.status == 200
        assert json.load(response)["choices"][0]["message"]["content"] == TEXT


def wait_closed(wall: Wall, attempts: list[Attempt]) -> None:
    wall.wait_until(lambda: all(one.closed_at is not None for one in attempts))


@pytest.mark.parametrize("model", ["mute", "mute-litellm", "stall", "stall-litellm", "endless"])
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_closes_the_upstream(server: Server, wall: Wall, model: str, stream: bool) -> None:
    """Before the headers, before the first token, midway; on both paths and both loops.

    No clock of the gateway would close it within ten minutes.
    """
    name = f"{GROUPS[model][0]}:{model}"
    before = len(wall.of(name))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    wall.wait_until(lambda: len(wall.of(name)) > before)

    connection.close()

    wait_closed(wall, wall.of(name))


def test_leaving_while_a_retry_waits_ends_it(server: Server, wall: Wall) -> None:
    """No second attempt is made for nobody."""
    name = "429-after@120:limited-alone"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
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
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics")
    with connection.getresponse() as response:
        lines = response.read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_for_no_requests(server: Server, limit: float = 60.0) -> None:
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
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
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
    wait_closed(wall, [one for one in wall.attempts if not one.tokens_sent])
    assert files(server) <= before + 5


STALLED = 200


def test_health_answers_while_two_hundred_streams_stall(server: Server) -> None:
    """In a few milliseconds on a machine that has nothing else to do."""
    connections: list[socket.socket] = []
    sent = http_of(server.port, "stall")
    try:
        for _ in range(STALLED):
            connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            connections[-1].sendall(sent)
        for connection in connections:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        took: list[float] = []
        for _ in range(20):
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as probe:
                probe.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert probe.recv(100).startswith(b"HTTP/1.1 200")
            took.append(time.monotonic() - began)
    finally:
        for connection in connections:
            connection.close()
    print(f"health with {STALLED} stalled streams: median {sorted(took)[10] * 1000:.1f} ms")


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
    await until(lambda: serving.started)
    before = len(asyncio.all_tasks())

    for _ in range(100):
        await asyncio.to_thread(abort, port, "endless", 0.01)
    await until(lambda: len(asyncio.all_tasks()) <= before)
    serving.should_exit = True
    await task
    for provider in providers.values():
        await provider.aclose()
