"""EchoProvider: an offline model whose answers are those of a real one in form."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest

from llmgw.exchange import Deployment
from llmgw.providers.base import Clocks, Run
from llmgw.providers.echo import EchoProvider
from llmgw.relay import Relay
from llmgw.wire import Call, read_call


def call_of(content: Any = "to be or not", **fields: Any) -> Call:
    messages = [{"role": "user", "content": content}]
    return read_call(json.dumps({"model": "echo", "messages": messages, **fields}).encode())


async def ask(call: Call, *options: tuple[str, str]) -> list[dict[str, Any]]:
    deployment = Deployment("echo", "echo", via="echo", options=options)
    run = Run(EchoProvider(), call, deployment, Clocks(), Relay(call, "echo"))
    given = payloads = await run.begin()
    while call.stream and given:
        given = await run.more()
        payloads = [*payloads, *given]
    await run.aclose()
    return [json.loads(payload) for payload in payloads]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def test_a_chunk_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of many words does not keep everybody waiting until all of them are written."""
    made: list[object] = []
    encode = msgspec.json.encode

    def counted(value: object) -> bytes:
        made.append(value)
        return encode(value)

    monkeypatch.setattr(msgspec.json, "encode", counted)
    answer = await EchoProvider().open(
        call_of(stream=True), Deployment("echo", "echo"), (), math.inf
    )

    assert await answer.read(math.inf)
    assert await answer.read(math.inf)
    assert len(made) == 2


async def test_the_last_message_comes_back() -> None:
    """A whole answer has the words, the model asked for and the usage."""
    [answer] = await ask(call_of())

    assert answer["choices"][0]["message"]["content"] == "to be or not"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 4


async def test_a_stream_has_a_word_a_chunk() -> None:
    """Role, words, finish reason."""
    chunks = await ask(call_of(stream=True))

    assert text_of(chunks) == "to be or not"
    assert len(chunks) == 1 + 4 + 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_max_tokens_cuts_with_reason_length(streamed: bool) -> None:
    """A limit on the tokens is told as a real model tells it."""
    answers = await ask(call_of(max_tokens=2, stream=streamed))

    assert answers[-1]["choices"][0]["finish_reason"] == "length"
    said = text_of(answers) if streamed else answers[0]["choices"][0]["message"]["content"]
    assert said == "to be"


async def test_parts_are_joined() -> None:
    """Content as parts is echoed by its texts."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    [answer] = await ask(call_of(parts))

    assert answer["choices"][0]["message"]["content"] == "a b"


async def test_a_part_whose_text_is_none_says_nothing() -> None:
    """What a client got wrong is no failure of ours."""
    parts = [{"type": "text", "text": 5}, {"type": "text", "text": None}, {"type": "image"}]

    [answer] = await ask(call_of(parts))

    assert answer["choices"][0]["message"]["content"].strip() == ""


async def test_empty_content_is_answered() -> None:
    """Nothing said is echoed as nothing, and still complete."""
    [answer] = await ask(call_of(""))

    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_chunks_and_pauses_are_settable() -> None:
    """A benchmark asks for as many chunks as it wants."""
    chunks = await ask(call_of("a b", stream=True), ("chunks", "5"), ("chunk_s", "0.001"))

    assert text_of(chunks) == "a ba ba"


async def test_every_choice_is_answered() -> None:
    """n choices are n times the same."""
    [answer] = await ask(call_of(n=2))

    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
