"""Bench: what each layer costs, in microseconds of CPU a request and a streamed message.

In one process, without sockets: an app is driven with a layer around it and without, in turns, and
the two are compared pairwise, so that what the machine does meanwhile meets both. Shown is the
median of the differences; one whose spread hides it is not shown as a number.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import attrs
import msgspec
from prometheus_client import CollectorRegistry

from llmgw import __version__
from llmgw.asgi import BODY, START, ASGIApp, Message, Receive, Scope, Send
from llmgw.exchange import Deployment
from llmgw.middlewares.access_log import AccessLogMiddleware
from llmgw.middlewares.admission import AdmissionMiddleware
from llmgw.middlewares.auth import AuthMiddleware
from llmgw.middlewares.deadline import DeadlineMiddleware
from llmgw.middlewares.drain import DrainMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.fallback import FallbackMiddleware
from llmgw.middlewares.hold import HoldMiddleware
from llmgw.middlewares.inference import InferenceMiddleware
from llmgw.middlewares.metrics import MetricsMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.routing import Candidate
from llmgw.stack import Layer, layer, stack

BACKENDS = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
REQUESTS = 300  # in one turn
MESSAGES = 50  # of a streamed response
CALL = {"model": "m", "messages": [{"role": "user", "content": "word " * 300}]}
REQUEST = msgspec.json.encode(CALL)
ANSWER = b'{"choices":[{"index":0,"message":{"content":"' + b"word " * 180 + b'"}}]}'
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer sk-0123456789"),
    (b"user-agent", b"bench"),
]


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in one piece."""
    await receive()
    await send({"type": START, "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": BODY, "body": ANSWER})


async def streamed(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in MESSAGES pieces more."""
    await receive()
    await send({"type": START, "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(MESSAGES):
        await send({"type": BODY, "body": b"data: {}\n\n", "more_body": True})
    await send({"type": BODY, "body": ANSWER})


def layers() -> dict[str, Layer]:
    """Each layer as the gateway has it; Tracing is off there, and so is not here."""
    place = [Candidate(Deployment("echo", "m"), "m")]
    found = [
        layer(RequestIDMiddleware),
        layer(AccessLogMiddleware, log=lambda line: None),
        layer(MetricsMiddleware, models=frozenset({"m"}), registry=CollectorRegistry()),
        layer(ErrorMapMiddleware),
        layer(DrainMiddleware),
        layer(AuthMiddleware, find=lambda scope: "team"),
        layer(AdmissionMiddleware),
        layer(HoldMiddleware),
        layer(InferenceMiddleware),
        layer(DeadlineMiddleware),
        layer(FallbackMiddleware, candidates=lambda exchange: place),
        layer(RetryMiddleware),
    ]
    return {one.name: one for one in found}


def variants(app: ASGIApp) -> dict[str, ASGIApp]:
    """An app in each layer alone, and in all of them."""
    every = layers()
    found = {name: stack([one], app) for name, one in every.items()}
    return {**found, "all": stack(list(every.values()), app)}


async def drive(app: ASGIApp, requests: int) -> None:
    """Send requests, one after the other."""
    base = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "headers": HEADERS,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }

    async def send(message: Message) -> None:
        pass

    for _ in range(requests):
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                await anyio.sleep_forever()
            given = True
            return {"type": "http.request", "body": REQUEST, "more_body": False}

        await app(dict(base), receive, send)


@attrs.frozen
class Cost:
    """Microseconds of CPU that something adds: the median, and half of the middle half's width."""

    median: float
    spread: float

    @property
    def known(self) -> bool:
        """Whether the spread leaves something of it."""
        return self.spread < max(abs(self.median), 0.05)


@attrs.frozen
class Row:
    """What a layer adds to a request, and to a streamed message."""

    name: str
    request: Cost
    message: Cost


def cost_of(differences: Sequence[float]) -> Cost:
    """The cost in paired differences."""
    low, middle, high = statistics.quantiles(differences, n=4)
    return Cost(round(middle, 3), round((high - low) / 2, 3))


async def turn(app: ASGIApp, requests: int) -> float:
    """Microseconds of CPU a request."""
    began = time.process_time_ns()
    await drive(app, requests)
    return (time.process_time_ns() - began) / requests / 1000


async def compare(rounds: int, requests: int) -> list[Row]:
    """Every layer against the bare app, in turns."""
    small, large = variants(whole), variants(streamed)
    per_request: dict[str, list[float]] = {name: [] for name in small}
    per_message: dict[str, list[float]] = {name: [] for name in small}
    for number in range(rounds + 1):
        for name in small:
            bare, with_it = await turn(whole, requests), await turn(small[name], requests)
            few = max(1, requests // 10)
            bare_stream = await turn(streamed, few)
            stream = await turn(large[name], few)
            if number:  # the first round warms up
                per_request[name].append(with_it - bare)
                per_message[name].append(((stream - bare_stream) - (with_it - bare)) / MESSAGES)
    return [Row(name, cost_of(per_request[name]), cost_of(per_message[name])) for name in small]


def measure(backend: str, rounds: int = 15, requests: int = REQUESTS) -> list[Row]:
    """Measure on one event loop."""
    name, options = BACKENDS[backend]
    return anyio.run(compare, rounds, requests, backend=name, backend_options=options)


def shown(cost: Cost) -> str:
    """A cost for people."""
    return f"{cost.median:7.2f} ± {cost.spread:.2f}" if cost.known else "hidden by noise"


def table(rows: Sequence[Row]) -> str:
    """All costs for people."""
    head = f"{'layer':<12} {'us a request':>18} {'us a message':>18}"
    lines = [f"{row.name:<12} {shown(row.request):>18} {shown(row.message):>18}" for row in rows]
    return "\n".join([head, *lines])


def report(backend: str, rows: Sequence[Row]) -> dict[str, Any]:
    """All costs for programs, with where they were measured."""
    names = ("anyio", "uvloop", "trio", "msgspec", "prometheus-client")
    versions = {name: version_of(name) for name in names}
    return {
        "backend": backend,
        "llmgw": __version__,
        "python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "versions": versions,
        "layers": [attrs.asdict(row) for row in rows],
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or "unknown"


def version_of(name: str) -> str | None:
    """The version of a distribution, None when it is not here."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


Echo = Callable[[str], None]


def run(backend: str, rounds: int, requests: int, path: str | None, echo: Echo) -> None:
    """Measure, print, and write JSON where it is wanted."""
    rows = measure(backend, rounds, requests)
    echo(f"{backend}, Python {sys.version.split()[0]}")
    echo(table(rows))
    if path is not None:
        with open(path, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(report(backend, rows))))
