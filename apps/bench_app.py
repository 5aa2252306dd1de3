"""The app's question: what does each layer cost around an app of the user's own?

The app is any ASGI app that can be imported. It is asked one request, over and over, and what it
answers must not be an error. When its answer is a stream, its messages are sent several times over,
to learn what a message costs without what a request costs.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs

from llmgw.apps import bench, bench_layers
from llmgw.apps.bench import Comparison, Row, Subject
from llmgw.apps.bench_drive import BACKENDS, BenchError, Client, Request, drive
from llmgw.apps.bench_lifespan import alive
from llmgw.asgi import BODY, ASGIApp, Header, Message, Receive, Scope, Send
from llmgw.errors import GatewayError
from llmgw.middlewares.auth import key_of
from llmgw.middlewares.loopback import LoopbackMiddleware
from llmgw.stack import Layer, layer
from llmgw.wire import read_call

TURN = 0.05  # seconds that a turn of the whole stack around the app may take; chosen
PATIENCE = 30.0  # seconds until the end of a response, at the first look; chosen
CHAT_ONLY = frozenset({"Hold", "Inference"})  # they read a chat request
JSON = ("{", "[", '"')  # how a text begins that is no file's name
OFFERED = frozenset({"Fallback", "Loopback"})  # need deployments; stands where Auth would


def import_app(path: str, *, factory: bool = False) -> ASGIApp:
    """The app at ``module:name``, importable from here. Raises BenchError, which says why not."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise BenchError(f"{path!r} is not of the form module:app")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as exc:  # whatever a foreign module does when it is imported
        raise BenchError(f"cannot import {module_name!r}: {type(exc).__name__}: {exc}") from exc
    for part in name.split("."):
        if not hasattr(found, part):
            raise BenchError(f"{module_name!r} has no {name!r}")
        found = getattr(found, part)
    if factory:
        try:
            found = found()
        except Exception as exc:  # a foreign function
            raise BenchError(f"{path}() raised {type(exc).__name__}: {exc}") from exc
    elif inspect.isfunction(found) and not inspect.signature(found).parameters:
        raise BenchError(f"{path} takes no arguments: is it a factory? Then say --factory")
    if not callable(found):
        raise BenchError(f"{path} is no ASGI app: {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def body_of(given: str | None) -> bytes:
    """A request's body: the content of a file of this name, else the text itself.

    Raises BenchError for what can only be meant as a file and cannot be read.
    """
    if not given:
        return b""
    try:
        return Path(given).read_bytes()
    except (OSError, ValueError) as exc:  # no such file; no file's name
        if given.endswith(".json") and not given.startswith(JSON):
            why = exc.strerror if isinstance(exc, OSError) else "no file's name"
            raise BenchError(f"cannot read {given!r}: {why}") from exc
        return given.encode()


def request_of(method: str | None, target: str, body: bytes, extra: Sequence[str]) -> Request:
    """The request to send, with a key for Auth where none is given. Raises BenchError."""
    headers: list[Header] = []
    for line in extra:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise BenchError(f"the header {line!r} is not of the form name: value")
        headers.append((name.strip().lower().encode("latin-1"), value.strip().encode("latin-1")))
    base = dict(bench_layers.HEADERS)
    if body:
        base[b"content-length"] = b"%d" % len(body)
    else:
        del base[b"content-type"]
    given = {name for name, _ in headers}
    headers += [(name, value) for name, value in base.items() if name not in given]
    target = target if target.startswith("/") else f"/{target}"
    return Request((method or ("POST" if body else "GET")).upper(), target, headers, body)


def is_chat(request: Request) -> bool:
    """Whether the layers that read a chat request can stand around its app."""
    try:
        read_call(request.body)
    except GatewayError:
        return False
    return request.method == "POST"


def known_layers(request: Request) -> list[Layer]:
    """All layers, outermost first, with the request's key as the one that Auth knows."""
    key = key_of({"headers": request.headers}) or bench_layers.KEY
    found = bench_layers.layers(key)
    at = next(number for number, one in enumerate(found) if one.name == "Auth")
    return [*found[: at + 1], layer(LoopbackMiddleware), *found[at + 1 :]]


def chosen(names: str | None, request: Request) -> list[Layer]:
    """The layers that are named, in the order they stand in; without names, all that make sense.

    Raises BenchError for a name that nobody has.
    """
    known = known_layers(request)
    if names is None:
        left_out = OFFERED if is_chat(request) else OFFERED | CHAT_ONLY
        return [one for one in known if one.name not in left_out]
    wanted = {name.strip().casefold(): name.strip() for name in names.split(",") if name.strip()}
    found = [one for one in known if wanted.pop(one.name.casefold(), None)]
    if wanted or not found:
        there = ", ".join(one.name for one in known)
        unknown = ", ".join(wanted.values()) or repr(names)
        raise BenchError(f"unknown layer {unknown}; known: {there}")
    return found


@attrs.frozen
class Repeated:
    """An app whose stream is longer: each message of it, but the last, is sent so many times."""

    app: ASGIApp
    times: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""

        async def send_again(message: Message) -> None:
            again = message["type"] == BODY and message.get("more_body", False)
            for _ in range(self.times if again else 1):
                await send(message)

        await self.app(scope, receive, send_again)


class EndlessError(BenchError):
    """A response that does not end."""


def yielding(app: ASGIApp) -> ASGIApp:
    """The app with a turn of the loop before each message: else some let no clock run."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_later(message: Message) -> None:
            await anyio.lowlevel.checkpoint()
            await send(message)

        await app(scope, receive, send_later)

    return run


async def asked(what: str, app: ASGIApp, request: Request) -> Client:
    """The client of one exchange. Raises BenchError for an answer that is not worth measuring."""
    client: Client | None = None
    with anyio.move_on_after(PATIENCE) as clock:
        try:
            client = await drive(yielding(app), request, 1)
        except BenchError as exc:
            raise BenchError(f"{what} {exc}") from exc
        except Exception as exc:  # whatever a foreign app does
            raise BenchError(f"{what} raised {type(exc).__name__}: {exc}") from exc
    if clock.cancel_called or client is None:
        raise EndlessError(f"{what} did not end its response within {PATIENCE:g} s")
    if not client.complete:
        raise BenchError(f"{what} did not complete its response")
    return client


async def requests_for(app: ASGIApp, request: Request) -> int:
    """How many requests make a turn that is neither too short nor too long."""
    began = time.perf_counter()
    await drive(app, request, 3)
    took = (time.perf_counter() - began) / 3
    return max(2, min(bench.REQUESTS, int(TURN / took)))


def subject_of(app: ASGIApp, request: Request, pieces: int) -> Subject:
    """The app as it is driven, by how many pieces its answer has before the last."""
    times = 1 + math.ceil(bench_layers.MESSAGES / max(1, pieces))
    short, long = Repeated(app, 1), Repeated(app, times)
    extra = pieces * (times - 1)
    return Subject((app, request), (short, request), (long, request), extra)


@attrs.frozen
class Question:
    """What is to be measured around which app."""

    app: ASGIApp
    layers: Sequence[Layer]
    request: Request
    rounds: int = bench.ROUNDS
    requests: int | None = None  # in a turn; None: by the app's own speed
    progress: bench.Progress = lambda done, of: None


@attrs.frozen
class Answer:
    """What was measured, and the status and turns that it was measured with."""

    rows: list[Row]
    status: int
    requests: int


async def ask(question: Question, state: dict[str, Any] | None) -> Answer:
    """Measure, after a look at whether it can be measured. Raises BenchError."""
    app, request = question.app, attrs.evolve(question.request, state=state)
    client = await asked("the app", app, request)
    pairs: list[Comparison] = bench_layers.comparisons(question.layers)
    for one in pairs:
        if one.kind == "alone":
            what = f"{one.name} around the app"
            found = await asked(what, one.within(app), request)
            if found.status != client.status:
                raise BenchError(f"{what} answered {found.status}, the app {client.status}")
    requests = question.requests or await requests_for(pairs[-1].within(app), request)
    subject = subject_of(app, request, client.pieces)
    try:
        rows = await bench.compare(pairs, subject, question.rounds, requests, question.progress)
    except BenchError as exc:
        raise BenchError(f"the app {exc} while it was measured") from exc
    return Answer(rows, client.status, requests)


def measure(question: Question, backend: str) -> Answer:
    """Measure on one event loop, within the app's lifespan. Raises BenchError."""
    name, options = BACKENDS[backend]
    main = functools.partial(ask, question)
    return anyio.run(alive, question.app, main, backend=name, backend_options=options)
