"""What both embedding examples promise, checked over a real socket."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import Server

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
TIMEOUT = 20.0  # seconds; only a failure waits so long


@contextmanager
def request(
    server: Server, method: str, path: str, body: bytes = b"", **headers: str
) -> Generator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    named = {"Content-Type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def tell(server: Server, word: str) -> None:
    with request(server, "POST", f"/tell/{word}") as response:
        assert response.status == 200, response.read()


def read_event(response: http.client.HTTPResponse) -> str:
    line = response.readline().decode().strip()
    assert response.readline() == b"\n"
    return line.removeprefix("data: ")


def check_request_id(server: Server) -> None:
    with request(server, "POST", "/refuse") as response:
        made = response.headers.get_all("x-request-id")
    with request(server, "POST", "/refuse", X_Request_ID="from-the-client-0123456789") as response:
        kept = response.headers.get_all("x-request-id")

    assert made is not None
    assert len(made) == 1
    assert len(made[0]) >= 20
    assert kept == ["from-the-client-0123456789"]


def check_retry(server: Server) -> None:
    with request(server, "POST", "/shaky", b'{"say": "hi"}') as response:
        assert response.status == 200
        assert json.load(response) == {"attempt": 3, "question": {"say": "hi"}}


def check_error_body(server: Server) -> None:
    with request(server, "POST", "/refuse") as response:
        assert response.status == 400
        error = json.load(response)["error"]

    assert error == {
        "message": "This model takes no images.",
        "type": "invalid_request_error",
        "param": "messages[0].content",
        "code": None,
    }


def check_foreign_404(server: Server) -> None:
    with request(server, "GET", "/nothing-here") as response:
        assert response.status == 404
        assert response.headers["x-request-id"]


def check_stream(server: Server) -> None:
    with request(server, "GET", "/stream") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert read_event(response) == "ready"
        for word in ("one", "two"):
            tell(server, word)  # sent only after the chunk before it has arrived
            assert read_event(response) == word
        tell(server, "end")
        assert read_event(response) == "[DONE]"
        assert response.read() == b""


def check_cut_stream(server: Server) -> None:
    with request(server, "GET", "/stream") as response:
        assert read_event(response) == "ready"
        tell(server, "cut")
        error = json.loads(read_event(response))["error"]
        rest = response.read()

    assert error["type"] == "provider_error"
    assert error["message"] == "The upstream broke off."
    assert rest == b""


def count(server: Server, status: str) -> float:
    with request(server, "GET", "/metrics") as response:
        assert response.status == 200
        lines = response.read().decode().splitlines()
    families = (line for line in lines if line.startswith("llmgw_requests_total{"))
    return sum(float(line.rpartition(" ")[2]) for line in families if f'status="{status}"' in line)


def check_metrics(server: Server) -> None:
    before = count(server, "400")
    with request(server, "POST", "/refuse") as response:
        response.read()
    assert count(server, "400") == before + 1


def check_left(server: Server) -> None:
    before = count(server, "499")
    with request(server, "GET", "/stream") as response:
        assert read_event(response) == "ready"
    end = time.monotonic() + TIMEOUT
    while count(server, "499") == before:
        assert time.monotonic() < end, "the client left and nobody noticed"
    check_stream(server)  # the stream that was left takes no word from this one


CHECKS = {
    "every response carries one request id": check_request_id,
    "a failing handler is asked again with the same body": check_retry,
    "a raised GatewayError is OpenAI's error body": check_error_body,
    "the framework's own answers pass": check_foreign_404,
    "a stream arrives chunk by chunk": check_stream,
    "a stream that breaks ends in one error frame": check_cut_stream,
    "errors are counted as the client got them": check_metrics,
    "a client that leaves ends the handler": check_left,
}
