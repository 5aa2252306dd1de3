"""Every bad input gets its 4xx in OpenAI's form, with the field's path; no 500, no hang."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from tests.servers import Server

JSON = {"content-type": "application/json"}
HI = '"messages": [{"role": "user", "content": "hi"}]'


def post(
    server: Server,
    body: bytes | str,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
) -> tuple[int, Any, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    data = body.encode() if isinstance(body, str) else body
    try:
        connection.request(method, path, data or None, headers if headers is not None else JSON)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    return response.status, json.loads(text or b"null"), response


BAD: dict[str, tuple[str | bytes, int, str | None]] = {
    "empty": ("", 400, None),
    "no-json": ("nope", 400, None),
    "array": ("[]", 400, None),
    "null": ("null", 400, None),
    "bad-utf8": (
        b'{"model": "echo", "messages": [{"role": "user", "content": "\xff"}]}',
        400,
        None,
    ),
    "nan": ('{"model": "echo", "temperature": NaN, ' + HI + "}", 400, None),
    "nested": ("[" * 500_000, 400, None),
    "nested-field": ('{"model": "echo", "x": ' + "[" * 500_000, 400, None),
    "nested-content": (
        '{"model": "echo", "messages": [{"role": "user", "content": ' + "[" * 500_000,
        400,
        None,
    ),
    "no-model": ("{" + HI + "}", 400, "model"),
    "model-number": ('{"model": 3, ' + HI + "}", 400, "model"),
    "model-address": ('{"model": "huggingface/http://127.0.0.1/x", ' + HI + "}", 400, "model"),
    "no-messages": ('{"model": "echo"}', 400, "messages"),
    "empty-messages": ('{"model": "echo", "messages": []}', 400, "messages"),
    "messages-text": ('{"model": "echo", "messages": "hi"}', 400, "messages"),
    "message-text": ('{"model": "echo", "messages": ["hi"]}', 400, "messages[0]"),
    "no-role": ('{"model": "echo", "messages": [{"content": "hi"}]}', 400, "messages[0].role"),
    "no-content": ('{"model": "echo", "messages": [{"role": "user"}]}', 400, "messages[0].content"),
    "content-number": (
        '{"model": "echo", "messages": [{"role": "user", "content": 5}]}',
        400,
        "messages[0].content",
    ),
    "temperature": ('{"model": "echo", "temperature": 3, ' + HI + "}", 400, "temperature"),
    "max-tokens": ('{"model": "echo", "max_tokens": 1.5, ' + HI + "}", 400, "max_tokens"),
    "stream": ('{"model": "echo", "stream": "yes", ' + HI + "}", 400, "stream"),
    "unknown-model": ('{"model": "no-such-model-anywhere", ' + HI + "}", 404, "model"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_body(echo_gateway: Server, name: str) -> None:
    """The status and the path of the field say what is wrong."""
    body, status, param = BAD[name]

    got, error, response = post(echo_gateway, body)

    assert got == status, error
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["param"] == param
    assert error["error"]["type"] == "invalid_request_error"
    assert response.headers["x-request-id"]
    assert response.headers["x-cache-status"] == "MISS"


def test_wrong_method(echo_gateway: Server) -> None:
    """405 names the method that would do."""
    status, error, response = post(echo_gateway, "", method="DELETE")

    assert (status, error["error"]["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings", "/v1/models/a/b", "//", "/%00"])
def test_unknown_path(echo_gateway: Server, path: str) -> None:
    """What is not listed is 404."""
    status, error, _ = post(echo_gateway, "", method="GET", path=path)

    assert status == 404
    assert error["error"]["type"] == "invalid_request_error"


def test_a_body_of_60_mb(echo_gateway: Server) -> None:
    """A body over the limit is 413, however large."""
    status, error, _ = post(echo_gateway, b'{"model": "echo", "x": "' + b"x" * 60_000_000 + b'"}')

    assert (status, error["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"content-type": "text/plain"}, id="simple-request"),
        pytest.param({**JSON, "host": "evil.example"}, id="rebound-host"),
        pytest.param({**JSON, "origin": "https://evil.example"}, id="foreign-page"),
    ],
)
def test_a_web_page_cannot_use_a_gateway_without_keys(
    echo_gateway: Server, headers: dict[str, str]
) -> None:
    """What a browser could send across origins is 403."""
    status, error, _ = post(echo_gateway, '{"model": "echo", ' + HI + "}", headers=headers)

    assert (status, error["error"]["type"]) == (403, "permission_error")


def test_the_gateway_still_answers(echo_gateway: Server) -> None:
    """After all that, the first curl of the README works."""
    status, answer, response = post(echo_gateway, '{"model": "echo", ' + HI + "}")

    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "hi"
    assert response.headers["x-provider"] == "echo"
