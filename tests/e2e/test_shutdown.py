"""SIGTERM: readiness first, then time for what runs, then one error each; exit code 0."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Serve
from tests.servers import Server
from tests.upstreams.wall import Wall

CONFIG = """
[server]
drain_s = {drain}

[[models]]
name = "endless"
[[models.deployments]]
model = "openai/endless@0.02"
api_base = "{url}/v1"

[[models]]
name = "short"
[[models.deployments]]
model = "openai/slow-first@0.5"
api_base = "{url}/v1"
"""
SERVE = ("-m", "llmgw", "serve", "--port", "{port}")
SERVERS = {
    "llmgw serve": SERVE,
    "llmgw serve --workers 2": (*SERVE, "--workers", "2"),
    "uvicorn": ("-m", "uvicorn", "--port", "{port}", "llmgw.apps.gateway:app"),
}


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    with Wall() as running:
        yield running


OPEN: list[http.client.HTTPConnection] = []
ANSWERS: list[http.client.HTTPResponse] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What a test leaves open is closed."""
    yield
    while ANSWERS:
        ANSWERS.pop().close()
    while OPEN:
        OPEN.pop().close()


def request(server: Server, method: str, path: str, body: Any = None) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    OPEN.append(connection)
    data = json.dumps(body) if body is not None else None
    headers = {"content-type": "application/json"}
    connection.request(method, path, data, headers)
    return connection


def ask(server: Server, model: str, *, stream: bool) -> http.client.HTTPConnection:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": model, "stream": stream, "messages": messages}
    return request(server, "POST", "/v1/chat/completions", body)


def answer(server: Server, model: str) -> http.client.HTTPResponse:
    """A stream that has begun."""
    response = ask(server, model, stream=True).getresponse()
    ANSWERS.append(response)
    return response


def status(server: Server, path: str) -> int:
    with request(server, "GET", path).getresponse() as response:
        return response.status


def wait_for(true: Any, seconds: float = 60.0) -> None:
    """Look until it is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        threading.Event().wait(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_sigterm_drains(name: str, serve: Serve, wall: Wall) -> None:
    """The stream goes on, new requests are refused, then the stream ends with one error."""
    with serve(CONFIG.format(url=wall.url, drain=1.5), argv=SERVERS[name]) as server:
        running = answer(server, "endless")
        short = ask(server, "short", stream=False)
        wall.wait_until(lambda: len(wall.of("slow-first@0.5")) > 0)
        began = time.monotonic()

        server.process.send_signal(signal.SIGTERM)

        if "workers" not in name:  # another worker may not have heard of it yet
            wait_for(lambda: status(server, "/health/ready") == 503)
            refused = answer(server, "short")
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert refused.headers["retry-after"] == "1"
            assert status(server, "/health/live") == 200
        with short.getresponse() as response:
            assert response.status == 200
        lines = running.read().split(b"\n\n")
        assert time.monotonic() - began >= 1.4
        code = server.process.wait(60)

    assert json.loads(lines[-2][6:])["error"]["type"] == "overloaded_error"
    assert b"[DONE]" not in b"".join(lines)
    assert code == (0 if "serve" in name else -signal.SIGTERM)
    wall.wait_closed()
    wall.reset()


@pytest.mark.slow
def test_an_idle_gateway_ends_at_once(serve: Serve, wall: Wall) -> None:
    """It does not wait for nothing: the time that a drain may take is longer than this test's."""
    with serve(CONFIG.format(url=wall.url, drain=600)) as server:
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)

    assert code == 0


@pytest.mark.slow
def test_a_second_sigterm_does_not_wait(serve: Serve, wall: Wall) -> None:
    """Somebody is in a hurry: what runs is told, and cut."""
    with serve(CONFIG.format(url=wall.url, drain=60)) as server:
        running = answer(server, "endless")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: status(server, "/health/ready") == 503)
        server.process.send_signal(signal.SIGTERM)
        last = running.read().split(b"\n\n")[-2]
        code = server.process.wait(60)

    assert json.loads(last[6:])["error"]["type"] == "overloaded_error"
    assert code == 0


@pytest.mark.slow
def test_an_interrupt_ends_it_too(serve: Serve, wall: Wall) -> None:
    """Ctrl-C in a terminal: what runs has the same time, and is ended after it."""
    with serve(CONFIG.format(url=wall.url, drain=0)) as server:
        answer(server, "endless")
        server.process.send_signal(signal.SIGINT)
        server.process.wait(60)

    wall.wait_closed()


@pytest.mark.slow
def test_hypercorn_ends_what_runs(serve: Serve, wall: Wall) -> None:
    """On trio it stops listening at once and has a grace of its own."""
    argv = ("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}", "llmgw.apps.gateway:app")
    with serve(CONFIG.format(url=wall.url, drain=0.5), argv=argv) as server:
        running = answer(server, "endless")
        assert running.readline().startswith(b"data: ")
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)

    wall.wait_closed()
