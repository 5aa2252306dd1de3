"""The gateway app: its table of paths, what models it serves, how it starts."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest

from llmgw.apps.catalog import Models, models_of
from llmgw.apps.gateway import Gateway, build
from llmgw.apps.settings import (
    CooldownSettings,
    DeploymentSettings,
    Key,
    Model,
    Retry,
    Server,
    Settings,
    Timeouts,
)
from llmgw.asgi import ASGIApp, Message
from llmgw.errors import AuthError, NotFoundError
from llmgw.exchange import Attempt, Exchange
from llmgw.portal import on_asyncio
from llmgw.providers.gateway import default_providers
from llmgw.providers.openai import OpenAIProvider
from llmgw.testing import Reply, exchange
from tests.servers import free_port
from tests.upstreams.recorder import Recorder, chat_chunks, stream
from tests.upstreams.recorder import Reply as Refusal

JSON = (b"content-type", b"application/json")
HI = b'"messages":[{"role":"user","content":"hi"}]'
KEY = b"sk-client"
ECHO = [Model(name=name, deployments=[DeploymentSettings(model="echo")]) for name in ("a", "b")]


def key(name: str = "team", models: list[str] | None = None) -> Key:
    return Key(name=name, sha256=sha256(KEY).hexdigest(), models=models or [])


def app_of(settings: Settings, environ: Mapping[str, str] | None = None) -> ASGIApp:
    return build(settings, environ or {}, default_providers())


async def ask(app: ASGIApp, model: str, sent: bytes | None = None) -> Reply:
    headers = [JSON, *([(b"x-api-key", sent)] if sent else [])]
    return await exchange(app, b'{"model":"%s",%s}' % (model.encode(), HI), headers=headers)


def error_in(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)["error"]
    return found


async def test_with_nothing_configured_echo_answers() -> None:
    """The first curl."""
    reply = await ask(app_of(Settings()), "echo")

    assert reply.status == 200
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == "hi"
    assert reply.headers[b"x-provider"] == b"echo"


async def test_with_something_configured_echo_is_gone() -> None:
    """A typing error in a model's name is not answered by a parrot."""
    reply = await ask(app_of(Settings(models=ECHO)), "echo")

    assert (reply.status, error_in(reply)["param"]) == (404, "model")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/chat/completions", 405, b"POST"),
        ("POST", "/v1/models", 405, b"GET, HEAD"),
        ("DELETE", "/health", 405, b"GET, HEAD"),
        ("GET", "/nothing", 404, None),
        ("GET", "/", 404, None),
        ("GET", "", 404, None),
        ("GET", "/v1/chat/completions/x", 404, None),
        ("GET", "/health/x", 404, None),
    ],
)
async def test_other_paths_and_methods(
    method: str, path: str, status: int, allow: bytes | None
) -> None:
    """OpenAI's body, the id, and for a wrong method those that are right."""
    reply = await exchange(app_of(Settings()), method=method, path=path)

    assert reply.status == status
    assert error_in(reply)["type"] == "invalid_request_error"
    assert reply.headers.get(b"allow") == allow
    assert reply.headers[b"x-request-id"]


async def test_models_are_listed() -> None:
    """As OpenAI's clients ask for them, one by one too; a name may hold a slash."""
    slashed = Model(name="team/fast", deployments=[DeploymentSettings(model="echo")])
    app = app_of(Settings(models=[*ECHO, slashed]))

    listed = await exchange(app, method="GET", path="/v1/models")
    one = await exchange(app, method="GET", path="/v1/models/team/fast")
    none = await exchange(app, method="GET", path="/v1/models/c")

    assert [entry["id"] for entry in json.loads(listed.body)["data"]] == ["a", "b", "team/fast"]
    assert json.loads(one.body)["object"] == "model"
    assert none.status == 404


async def test_a_key_that_may_use_one_model_sees_and_uses_one() -> None:
    """Another one is refused with 403, in the list it is not there."""
    app = app_of(Settings(models=ECHO, keys=[key(models=["a"])]))

    listed = await exchange(app, method="GET", path="/v1/models", headers=[(b"x-api-key", KEY)])

    assert [entry["id"] for entry in json.loads(listed.body)["data"]] == ["a"]
    assert (await ask(app, "a", KEY)).status == 200
    assert (await ask(app, "b", KEY)).status == 403
    assert (await ask(app, "a")).status == 401
    assert (await ask(app, "no-such", KEY)).status == 403  # who may not, learns nothing


async def test_metrics_can_be_closed() -> None:
    """Open on loopback; with ``metrics = "key"``, or beyond loopback, for known keys."""
    closed = app_of(Settings(server=Server(metrics="key"), keys=[key()]))
    exposed = app_of(Settings(server=Server(host="0.0.0.0"), keys=[key()]))

    async def status(app: ASGIApp, *headers: tuple[bytes, bytes]) -> int:
        return (await exchange(app, method="GET", path="/metrics", headers=headers)).status

    assert await status(app_of(Settings(keys=[key()]))) == 200
    assert (await status(closed), await status(closed, (b"x-api-key", KEY))) == (401, 200)
    assert await status(exposed) == 401


def models(settings: Settings | None = None, **environ: str) -> Models:
    return models_of(settings or Settings(), environ)


def test_names_beyond_the_groups_are_open_on_loopback_only() -> None:
    """Beyond it a client would choose what the operator pays; a setting can say otherwise."""
    keys = [key()]
    beyond = Server(host="0.0.0.0")

    assert (
        models(Settings(models=ECHO), GROQ_API_KEY="k").find("groq/m")[0].deployment.provider
        == "groq"
    )
    with pytest.raises(NotFoundError):
        models(Settings(models=ECHO, server=beyond, keys=keys), GROQ_API_KEY="k").find("groq/m")
    opened = Server(host="0.0.0.0", open_models=True)
    assert models(Settings(server=opened, keys=keys), GROQ_API_KEY="k").find("groq/m")


def test_a_group_without_its_key_says_so_to_who_asks() -> None:
    """The others are served; ``llmgw check`` tells of it, and so does readiness if all are so."""
    keyless = Model(name="paid", deployments=[DeploymentSettings(model="groq/m")])
    found = models(Settings(models=[*ECHO, keyless]))

    with pytest.raises(AuthError, match="GROQ_API_KEY"):
        found.find("paid")
    assert found.find("a")[0].deployment.provider == "echo"
    assert "GROQ_API_KEY" in found.problems[0]


async def test_ready_means_that_some_model_can_be_served() -> None:
    """With no key for any of them the gateway is alive, and not ready."""
    keyless = Model(name="paid", deployments=[DeploymentSettings(model="groq/m")])

    async def status(*groups: Model) -> int:
        app = app_of(Settings(models=list(groups)))
        return (await exchange(app, method="GET", path="/health/ready")).status

    assert (await status(), await status(*ECHO, keyless), await status(keyless)) == (200, 200, 503)


@pytest.mark.parametrize(
    ("given", "environ", "words"),
    [
        (Settings(), {}, ["`echo`", "no provider key and no model configured"]),
        (Settings(keys=[key()]), {}, ["`echo`", "no provider key and no model configured"]),
        (Settings(models=ECHO), {}, ["`a`, `b`"]),
        (Settings(), {"GROQ_API_KEY": "k"}, ["any model of groq"]),
        (
            Settings(server=Server(open_models=False)),
            {"GROQ_API_KEY": "k"},
            ["no model is configured"],
        ),
    ],
)
def test_the_start_says_in_one_line_what_is_served(
    given: Settings, environ: dict[str, str], words: list[str]
) -> None:
    """Whatever is configured."""
    line = models(given, **environ).summary

    assert "\n" not in line
    assert all(word in line for word in words)


def test_samples_are_what_a_smoke_test_asks() -> None:
    """Every group, and a cheap model of each provider with a key."""
    assert models(Settings(models=ECHO), OPENAI_API_KEY="k").samples == ["a", "b", "gpt-4o-mini"]


def test_key_names_do_not_show_what_they_may() -> None:
    """An exchange without a key sees all: the guard is Auth, not this."""
    found = models(Settings(models=ECHO, keys=[key(models=["a"])]))

    assert found.visible(Exchange()) == ["a", "b"]
    assert found.visible(Exchange(key="team")) == ["a"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMGW_CONFIG", raising=False)
    return tmp_path


async def live(app: ASGIApp) -> list[Message]:
    """One lifespan: startup, then shutdown."""
    inbox: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return inbox.pop(0)

    async def send(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    return sent


async def test_lifespan_builds_and_ends(folder: Path) -> None:
    """Both are told to the server."""
    sent = await live(Gateway())

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_an_upstream_has_room_for_all_exchanges(folder: Path) -> None:
    """A limit that is raised is not met again on the way out."""
    (folder / "llmgw.toml").write_text("[limits]\nmax_concurrent = 5000\n")
    gateway = Gateway()

    await live(gateway)

    way_out = gateway.providers["openai"]
    assert isinstance(way_out, OpenAIProvider)
    assert way_out.upstream.connections == 5000


@pytest.mark.parametrize("text", ["[server]\nprot = 1\n", '[server]\nhost = "0.0.0.0"\n'])
async def test_lifespan_fails_with_the_reason(text: str, folder: Path) -> None:
    """A server then ends instead of serving half a gateway, or an open one."""
    (folder / "llmgw.toml").write_text(text)

    [message] = await live(Gateway())

    assert message["type"] == "lifespan.startup.failed"
    assert "prot" in message["message"] or "insecure" in message["message"]


async def test_lifespan_fails_when_tracing_cannot_be_set_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked for traces and gets none must hear of it at the start."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "soon")

    [message] = await live(Gateway())

    assert message["type"] == "lifespan.startup.failed"
    assert "OTEL_BSP_SCHEDULE_DELAY" in message["message"]


async def test_websockets_are_refused_not_crashed() -> None:
    """The gateway speaks HTTP."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/chat/completions", "headers": []}
    await app_of(Settings())(scope, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]


SLOW = {"latency_s": "60"}, {"chunk_s": "60"}  # before the first word, or between two
SLOW_MODELS = [
    Model(name=f"slow{n}", deployments=[DeploymentSettings(model="echo", options=dict(one))])
    for n, one in enumerate(SLOW)
]


async def talk(app: ASGIApp, model: str, *, leaves: bool) -> None:
    """Ask for a stream; leave with its first event, or when nothing comes; or stay to the end."""
    read, gone = anyio.Event(), anyio.Event()
    body = b'{"model":"%s","stream":true,%s}' % (model.encode(), HI.replace(b"hi", b"hi you"))

    async def receive() -> Message:
        if not read.is_set():
            read.set()
            return {"type": "http.request", "body": body, "more_body": False}
        with anyio.move_on_after(0.01 if leaves else math.inf):
            await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and (leaves or not message.get("more_body")):
            gone.set()

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [JSON]}
    with anyio.fail_after(60):
        await app(scope, receive, send)


async def left_to_the_collector(app: ASGIApp, model: str, *, leaves: bool) -> list[object]:
    """What of an exchange only the collector finds, after the second of two: the first warms up."""
    await talk(app, model, leaves=leaves)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await talk(app, model, leaves=leaves)
        gc.collect()
        return [one for one in gc.garbage if isinstance(one, Exchange | Attempt)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("model", ["slow0", "slow1"])
async def test_a_client_that_leaves_leaves_nothing_to_the_collector(model: str) -> None:
    """An error's traceback holds frames, and those all of the request: until the collector runs."""
    app = app_of(Settings(models=SLOW_MODELS))

    assert not await left_to_the_collector(app, model, leaves=True)


@pytest.mark.parametrize("case", ["nobody", "refused", "cut", "silent", "unknown"])
async def test_what_fails_leaves_nothing_to_the_collector(case: str, recorder: Recorder) -> None:
    """Nor do the errors that led to what the client is told, or the attempts before the last.

    Nothing cools: the request that is looked at retries as the first one did.
    """
    if case == "silent" and not on_asyncio():
        pytest.skip("trio's socket names its cancellation in a frame of it: a cycle of trio's own")
    content = chat_chunks()[:2]
    replies = {
        "refused": Refusal(status=500),
        "cut": stream([*content, *content], cut=2),
        "silent": stream([*content, *content], hold=0),
    }
    recorder.script.extend(replies[case] for _ in range(20) if case in replies)
    port = free_port() if case == "nobody" else recorder.port
    base = f"http://127.0.0.1:{port}/v1"
    places = [DeploymentSettings(model=f"openai/{one}", api_base=base) for one in ("m", "n")]
    settings = Settings(
        models=[Model(name="m", deployments=places)],
        timeouts=Timeouts(idle_s=0.1, first_token_s=0.1),
        retry=Retry(backoff_s=0.01),
        cooldown=CooldownSettings(failures=1000),
    )
    providers = default_providers()
    app = build(settings, {"OPENAI_API_KEY": "sk-x"}, providers)

    name = "unknown" if case == "unknown" else "m"
    try:
        assert not await left_to_the_collector(app, name, leaves=False)
    finally:
        await providers["openai"].aclose()
