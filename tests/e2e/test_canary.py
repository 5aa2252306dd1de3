"""No key, prompt or upstream body in any log, span, metric or error; secrets are everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import KEY, Serve
from tests.servers import Server
from tests.upstreams.recorder import Recorder, Reply, stream

PROMPT, OURS, WORDS = "canary-prompt-f00d", "sk-canary-upstream-key-0123", "canary-answer-beef"
QUERY, HEADER, CLIENT = "canary-query-cafe", "canary-header-babe", "sk-canary-wrong-client-key"
CONFIG = """
[retry]
backoff_s = 0.01
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
[[keys]]
name = "team-a"
sha256 = "{key}"
"""
FAULTS: dict[str, Reply] = {
    "500-text": Reply(status=500, body=f"Traceback (most recent call last): {WORDS} {OURS}"),
    "500-json": Reply(status=500, body={"error": {"message": f"{WORDS} {OURS}"}}),
    "401": Reply(status=401, body={"error": {"message": f"Incorrect API key provided: {OURS}"}}),
    "400-key": Reply(status=400, body={"error": {"message": f"bad key {OURS}"}}),
    "429": Reply(status=429, body={"error": {"message": WORDS}}, headers={"retry-after": "60"}),
    "html": Reply(headers={"content-type": "text/html"}, body=f"<html>{WORDS}</html>"),
    "malformed-event": stream([f"data: {{{WORDS}\n\n".encode()]),
    "error-event": stream(
        [json.dumps({"error": {"message": WORDS}}).join(("data: ", "\n\n")).encode()]
    ),
}


CLIENT_ADDRESS = "203.0.113.9"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Recorder]:
    with Recorder() as running:
        yield running


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: Recorder) -> Iterator[Server]:
    config = CONFIG.format(url=upstream.url, key=sha256(KEY.encode()).hexdigest())
    env = {
        "UPSTREAM_KEY": OURS,
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with serve(config, env) as running:
        yield running


def ask(server: Server, key: str = KEY, **fields: Any) -> httpx2.Response:
    body = {"model": "direct", "messages": [{"role": "user", "content": PROMPT}], **fields}
    headers = {"authorization": f"Bearer {key}", "x-request-id": f"r-{HEADER}", "x-api-key": key}
    headers["x-forwarded-for"] = CLIENT_ADDRESS
    address = f"{server.base_url}/v1/chat/completions?api_key={QUERY}"
    return httpx2.post(address, json=body, headers=headers, timeout=60)


@pytest.mark.parametrize("model", ["direct", "litellm"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_says_nothing_of_what_is_secret(
    server: Server, upstream: Recorder, model: str, fault: str, streamed: bool
) -> None:
    """Neither our key nor the upstream's words reach the client by an error."""
    upstream.script.clear()
    upstream.script.extend([FAULTS[fault]] * 3)

    response = ask(server, model=model, stream=streamed)
    text = response.text + str(response.headers)

    assert response.status_code >= 400, text
    assert OURS not in text
    assert WORDS not in text
    assert "Traceback" not in text


def test_sinks_hold_no_secret(server: Server, upstream: Recorder) -> None:
    """Logs and spans of the process, and its metrics, after good and bad calls of every kind."""
    upstream.script.clear()
    ask(server)
    ask(server, stream=True)
    ask(server, key=CLIENT)
    ask(server, model=f"no-{WORDS}" * 8)
    ask(server, temperature=PROMPT)
    metrics = httpx2.get(f"{server.base_url}/metrics").text
    server.stop()
    printed = server.output

    assert '"llm_request_start"' in printed, "the logs are there to be searched"
    assert '"http_request"' in printed
    assert "llm.generate" in printed, "the spans are there to be searched"
    assert CLIENT_ADDRESS in printed, "whoever exports spans learns who is behind a proxy"
    for secret in (PROMPT, OURS, KEY, CLIENT, QUERY):
        assert secret not in printed, secret
        assert secret not in metrics, secret
    assert WORDS not in metrics
    assert HEADER not in metrics


def test_the_clients_key_does_not_go_upstream(server: Server, upstream: Recorder) -> None:
    """The upstream saw our key, and nothing of the client's."""
    assert upstream.requests
    for request in upstream.requests:
        assert KEY not in str(request.headers)
        assert HEADER not in str(request.headers)
        assert QUERY not in request.query
