"""Echo: an offline model that says the last message again, for the first ``curl`` and for tests.

Deterministic. ``Deployment.options`` of an echo deployment may set ``latency_s`` (before the first
chunk), ``chunk_s`` (between chunks) and ``chunks`` (how many; more than there are words repeats
them).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import anyio
import attrs
import msgspec

from llmgw._concurrency.block import Block, Expired
from llmgw.asgi import Header
from llmgw.exchange import Deployment
from llmgw.wire import DONE, Call, fault_of

MOST = 10_000_000  # chunks of one answer; chosen
CREATED = 1_700_000_000  # a fixed time: the same question has the same answer


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``Deployment.options`` may say."""

    chunks: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    latency_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    chunk_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0


def read_options(given: Mapping[str, object]) -> Options:
    """The options of an echo deployment, numbers as texts too. Raises ValueError with the path."""
    try:
        return msgspec.convert(given, Options, strict=False)
    except msgspec.ValidationError as exc:
        text, path = fault_of(exc)
        raise ValueError(f"options.{path}: {text}" if path else f"options: {text}") from exc


class Part(msgspec.Struct):
    """One part of a message's content."""

    text: object = ""


class Said(msgspec.Struct):
    """What is read of a message."""

    content: str | list[Part] | None = None


def last_words(call: Call) -> list[str]:
    """The words of the last message, each but the first with the blank before it."""
    messages = msgspec.json.decode(call.fields["messages"], type=list[Said])
    content = messages[-1].content or ""
    if isinstance(content, str):
        text = content
    else:
        text = " ".join(part.text for part in content if isinstance(part.text, str))
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


@attrs.define(eq=False)
class EchoAnswer:
    """The texts of one answer, given one a read."""

    texts: Iterator[bytes]
    latency: float  # seconds before the first
    pause: float  # seconds between two
    headers: Sequence[Header] = ()
    begun: bool = False

    async def read(self, due: float) -> list[bytes]:
        """See Answer."""
        text = next(self.texts, None)
        if text is None:
            return []
        pause = self.pause if self.begun else self.latency
        self.begun = True
        if not pause:
            await anyio.lowlevel.checkpoint()
            return [text]
        with Block(due - time.monotonic()):
            await anyio.sleep(pause)
            return [text]
        raise Expired

    def release(self) -> bool:
        """See Answer."""
        return True

    async def aclose(self) -> None:
        """See Answer."""
        self.texts = iter(())


@attrs.frozen
class EchoProvider:
    """Answers without any upstream."""

    async def open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
    ) -> EchoAnswer:
        """See Provider."""
        options = read_options(dict(deployment.options))
        words = last_words(call)
        if options.chunks is not None:
            words = list(itertools.islice(itertools.cycle(words), options.chunks))
        limit = call.max_tokens if call.max_tokens is not None else len(words)
        reason = "stop" if limit >= len(words) else "length"
        words = words[:limit]
        every = streamed(call, words, reason) if call.stream else [whole(call, words, reason)]
        return EchoAnswer(iter(every), options.latency_s, options.chunk_s)

    async def aclose(self) -> None:
        """Nothing is held."""


def usage(call: Call, words: list[str]) -> dict[str, int]:
    """A word counts as a token; the prompt is counted by its words too."""
    asked = len(bytes(call.fields["messages"]).split())
    return {
        "prompt_tokens": asked,
        "completion_tokens": len(words),
        "total_tokens": asked + len(words),
    }


def whole(call: Call, words: list[str], reason: str) -> bytes:
    """The answer in one piece."""
    message = {"role": "assistant", "content": "".join(words)}
    choices = [
        {"index": n, "message": message, "finish_reason": reason} for n in range(call.choices)
    ]
    head = {
        "id": "chatcmpl-echo",
        "object": "chat.completion",
        "created": CREATED,
        "model": call.model,
    }
    return msgspec.json.encode({**head, "choices": choices, "usage": usage(call, words)})


def streamed(call: Call, words: list[str], reason: str) -> Iterator[bytes]:
    """The answer as chunks: role, words, finish reason, usage, [DONE]; as they are asked for."""
    head = {
        "id": "chatcmpl-echo",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": call.model,
        "usage": None,
    }

    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        numbers = range(call.choices)
        choices = [{"index": n, "delta": delta, "finish_reason": reason} for n in numbers]
        return msgspec.json.encode({**head, "choices": choices})

    tokens = usage(call, words)  # now: once the stream has begun, the call forgets its fields
    yield chunk({"role": "assistant", "content": ""})
    for word in words:
        yield chunk({"content": word})
    yield chunk({}, reason)
    yield msgspec.json.encode({**head, "choices": [], "usage": tokens})
    yield DONE
