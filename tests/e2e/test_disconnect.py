"""A client that leaves takes the upstream's connection with it, on both paths and both loops."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Serve
from tests.servers import Server
from tests.upstreams.recorder import Recorder, chat_chunks, stream

CONFIG = """
[[models]]
name = "direct"
deployments = [{{ model = "openai/m", api_base = "{url}/v1", api_key_env = "UPSTREAM_KEY" }}]

[[models]]
name = "litellm"
[[models.deployments]]
model = "openai/m"
api_base = "{url}/v1"
api_key_env = "UPSTREAM_KEY"
via = "litellm"
"""
SERVERS = {
    "asyncio": ("-m", "uvicorn", "--loop", "asyncio", "--port", "{port}", "llmgw.apps.gateway:app"),
    "uvloop": ("-m", "uvicorn", "--loop", "uvloop", "--port", "{port}", "llmgw.apps.gateway:app"),
    "trio": ("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}", "llmgw.apps.gateway:app"),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Recorder]:
    with Recorder() as running:
        yield running


@pytest.fixture(autouse=True)
def quiet(upstream: Recorder) -> None:
    """Nothing of the test before is still under way."""
    upstream.wait_until(lambda: upstream.holding == 0)
    upstream.script.clear()


@pytest.fixture(params=SERVERS, scope="module")
def server(request: pytest.FixtureRequest, serve: Serve, upstream: Recorder) -> Iterator[Server]:
    config = CONFIG.format(url=upstream.url)
    with serve(config, {"UPSTREAM_KEY": "sk-up"}, SERVERS[request.param]) as running:
        yield running


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("model", ["direct", "litellm"])
def test_leaving_before_the_answer_closes_the_upstream(
    server: Server, upstream: Recorder, model: str, streamed: bool
) -> None:
    """While the upstream is silent the client hangs up: the upstream's socket is closed."""
    upstream.script.append(stream(chat_chunks(), hold=0))
    closed = upstream.closed
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": model, "stream": streamed, "messages": [{"role": "user", "content": "hi"}]}
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    upstream.wait_until(lambda: upstream.holding > 0)

    connection.close()

    upstream.wait_until(lambda: upstream.closed > closed)


@pytest.mark.parametrize("model", ["direct", "litellm"])
def test_leaving_mid_stream_closes_the_upstream(
    server: Server, upstream: Recorder, model: str
) -> None:
    """After the first chunk the client hangs up: the upstream's socket is closed."""
    upstream.script.append(stream(chat_chunks(), hold=3))
    closed = upstream.closed
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    upstream.wait_until(lambda: upstream.holding > 0)

    response.close()
    connection.close()

    upstream.wait_until(lambda: upstream.closed > closed)
