"""The layers' question: what does each layer of the gateway cost, alone and in the whole stack?

The app is trivial and answers at once, in one piece or as a stream. The layers are the gateway's
own lists, with one client key and one deployment; tracing is off, as it is without an exporter.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import anyio
import attrs
import msgspec
from prometheus_client import CollectorRegistry

from llmgw.apps import bench, gateway
from llmgw.apps.bench import Comparison, Row, Subject, Wrap
from llmgw.apps.bench_drive import BACKENDS, Request
from llmgw.apps.catalog import models_of
from llmgw.apps.settings import DeploymentSettings, Key, Model, Settings
from llmgw.asgi import BODY, START, ASGIApp, Header, Receive, Scope, Send
from llmgw.exchange import Exchange
from llmgw.routing import Candidate
from llmgw.stack import Layer, stack

ALL = "all"
MODEL, KEY = "m", b"sk-bench-0123456789abcdef"
MESSAGES = 100  # that a long stream has more than a short one
CALL = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 310}]}  # 1.6 KB
ANSWER = b'{"choices":[{"index":0,"message":{"content":"' + b"word " * 180 + b'"}}]}'  # 1 KB
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
HEADERS: Sequence[Header] = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"llmgw-bench"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer " + KEY),
]
WHOLE = Request(headers=HEADERS, body=msgspec.json.encode(CALL))
STREAM = Request(headers=HEADERS, body=msgspec.json.encode({**CALL, "stream": True}))
JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream")]


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in one piece."""
    await receive()
    await send({"type": START, "status": 200, "headers": JSON})
    await send({"type": BODY, "body": ANSWER})


@attrs.frozen
class Streamed:
    """Answer by so many events, a message each."""

    messages: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        await receive()
        await send({"type": START, "status": 200, "headers": EVENTS})
        for _ in range(self.messages):
            await send({"type": BODY, "body": EVENT, "more_body": True})
        await send({"type": BODY, "body": b"data: [DONE]\n\n"})


SUBJECT = Subject((whole, WHOLE), (Streamed(1), STREAM), (Streamed(1 + MESSAGES), STREAM), MESSAGES)


def settings_of(key: bytes = KEY) -> Settings:
    """A gateway with one key and one model."""
    place = DeploymentSettings(model="echo")
    account = Key(name="team", sha256=sha256(key).hexdigest())
    return Settings(models=[Model(name=MODEL, deployments=[place])], keys=[account])


def layers(key: bytes = KEY) -> list[Layer]:
    """Each layer as the gateway has it, outermost first; its metrics in a registry of their own."""
    settings = settings_of(key)
    models = models_of(settings, {})

    def candidates(exchange: Exchange) -> list[Candidate]:
        return models.find(MODEL)  # alone, Fallback has nobody to tell it the model

    changed: Mapping[str, Mapping[str, Any]] = {
        "Metrics": {"registry": CollectorRegistry()},
        "Fallback": {"candidates": candidates},
    }
    found = [
        *gateway.outer_layers(settings, frozenset(models.groups)),
        *gateway.inner_layers(settings),
        *gateway.call_layers(settings, models),
    ]
    return [attrs.evolve(one, config={**one.config, **changed.get(one.name, {})}) for one in found]


def bare(app: ASGIApp) -> ASGIApp:
    """Nothing around the app."""
    return app


def all_of(every: Sequence[Layer]) -> Wrap:
    """The stack of some layers, as a wrap."""
    return functools.partial(stack, every)


def comparisons(every: Sequence[Layer]) -> list[Comparison]:
    """Each layer against nothing, and the whole stack against the stack without it; and ALL."""
    if len(every) == 1:
        return [Comparison(every[0].name, "alone", bare, all_of(every))]
    found: list[Comparison] = []
    for one in every:
        rest = [other for other in every if other is not one]
        found.append(Comparison(one.name, "alone", bare, all_of([one])))
        found.append(Comparison(one.name, "stack", all_of(rest), all_of(every)))
    return [*found, Comparison(ALL, "alone", bare, all_of(every))]


def measure(
    backend: str,
    rounds: int = bench.ROUNDS,
    requests: int = bench.REQUESTS,
    progress: bench.Progress = lambda done, of: None,
) -> list[Row]:
    """Measure on one event loop."""
    name, options = BACKENDS[backend]
    pairs = comparisons(layers())
    return anyio.run(
        bench.compare,
        *(pairs, SUBJECT, rounds, requests, progress),
        backend=name,
        backend_options=options,
    )
