from __future__ import annotations

import http.client
import json
from typing import Any

from tests.servers import Llama

MESSAGES = [{"role": "user", "content": "What is the weather like?"}]


def post(server: Llama, body: dict[str, Any], key: str | None = None) -> tuple[int, str, list[str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    try:
        asked = json.dumps({"model": server.alias, "messages": MESSAGES, **body})
        connection.request("POST", "/v1/chat/completions", asked, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, answer.headers["content-type"], text.splitlines()
    finally:
        connection.close()


def test_answer_is_as_long_as_asked(llama: Llama) -> None:
    """A completion has just the number of tokens that the client allows."""
    status, _, lines = post(llama, {"max_tokens": 12})
    answer = json.loads(lines[0])
    assert status == 200
    assert answer["model"] == llama.alias
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 12


def test_stream_ends_with_usage_and_done(llama: Llama) -> None:
    """A stream sends its chunks, then the usage without a choice, then the end."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    status, kind, lines = post(llama, {"max_tokens": 5, **options})
    events = [line.removeprefix("data: ") for line in lines if line]
    assert (status, kind) == (200, "text/event-stream")
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5


def test_tool_call_is_made(llama: Llama) -> None:
    """A tool call comes parsed, with arguments that fit the tool's schema."""
    city = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": city}}
    asked = {"tools": [tool], "tool_choice": "required", "logit_bias": {"2": 100, "3": 100}}
    _, _, lines = post(llama, asked)
    choice = json.loads(lines[0])["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": "Paris"}


def test_wrong_key_is_refused(llama_with_key: Llama) -> None:
    """A server with a key answers who has it, and 401 to others."""
    assert post(llama_with_key, {"max_tokens": 1}, llama_with_key.key)[0] == 200
    status, _, lines = post(llama_with_key, {"max_tokens": 1}, "sk-wrong")
    assert status == 401
    assert json.loads(lines[0])["error"]["type"] == "authentication_error"
