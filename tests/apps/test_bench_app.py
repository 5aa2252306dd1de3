"""``llmgw bench app``: an app of the user's own is measured, or it is said why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmgw.apps import bench_app
from llmgw.apps.bench_app import Repeated, body_of, chosen, request_of, subject_of
from llmgw.apps.bench_drive import Request, drive
from llmgw.apps.cli import main
from llmgw.asgi import BODY, START, Receive, Scope, Send

TINY = '''
import anyio

from llmgw.asgi import respond

lives = []

async def read(receive):
    while (await receive()).get("more_body"):
        pass

async def app(scope, receive, send):
    """Answers in one piece; knows no lifespan."""
    assert scope["type"] == "http"
    await read(receive)
    await respond(send, 200, b"{}")

answered = []

async def tires(scope, receive, send):
    """Answers well for a while."""
    assert scope["type"] == "http"
    await read(receive)
    answered.append(200 if len(answered) < 9 else 503)
    await respond(send, answered[-1], b"{}")

async def streams(scope, receive, send):
    """Answers in three pieces."""
    assert scope["type"] == "http"
    await read(receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(2):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await send({"type": "http.response.body", "body": b"x"})

async def checks(scope, receive, send):
    """Answers 200 to the one request that it knows, and only while it lives."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["lives"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        lives.append("ended")
        return await send({"type": "lifespan.shutdown.complete"})
    body = (await receive())["body"]
    known = (scope["method"], scope["path"], scope["query_string"], body)
    good = known == ("PUT", "/x", b"y=1", b"hello") and scope["state"]["lives"]
    header = dict(scope["headers"]).get(b"x-mine") == b"yes"
    await respond(send, 200 if good and header else 500, b"{}")

async def refuses(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def raises(scope, receive, send):
    raise LookupError("nothing here")

async def fails(scope, receive, send):
    assert scope["type"] == "http"
    await respond(send, 503, b"{}")

async def half(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})

async def endless(scope, receive, send):
    """Streams for ever, and never waits for anything."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

async def silent(scope, receive, send):
    """Never answers, and calls its end an answer's."""
    assert scope["type"] == "http"
    try:
        await anyio.sleep_forever()
    except BaseException:
        await respond(send, 200, b"{}")
        raise

async def missing(scope, receive, send):
    assert scope["type"] == "http"
    await respond(send, 404, b"{}")

async def flips(scope, receive, send):
    """Answers 200 once."""
    assert scope["type"] == "http"
    lives.append("x")
    await respond(send, 200 if len(lives) == 1 else 404, b"{}")

def make():
    return app

def breaks():
    raise LookupError("no config")

number = 7
'''
STARLETTE = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from starlette.responses import StreamingResponse

@asynccontextmanager
async def lifespan(app):
    yield {"greeting": "hi"}

app = FastAPI(lifespan=lifespan)

@app.post("/echo")
async def echo(asked: dict) -> dict:
    return asked

@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts():
        for _ in range(3):
            yield b"data: x\\n\\n"
    return StreamingResponse(parts(), media_type="text/event-stream")
"""
QUICK = ["--rounds", "5", "--requests", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with apps; what a run puts on the path is taken off again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # restores the path afterwards
    (tmp_path / f"tiny_{tmp_path.name}.py").write_text(TINY)
    (tmp_path / f"fast_{tmp_path.name}.py").write_text(STARLETTE)
    (tmp_path / f"broken_{tmp_path.name}.py").write_text("import no_such_thing")
    return tmp_path


def run(folder: Path, app: str, *words: str) -> Result:
    kind, _, name = app.partition(":")
    target = f"{kind}_{folder.name}:{name}" if name else app
    return CliRunner().invoke(main, ["bench", "app", target, *QUICK, *words])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_tiny_app(folder: Path, backend: str) -> None:
    """The layers that are named, alone and together, in a table and as JSON and SVG."""
    words = ["--layers", "Retry, RequestID", "--json", "x.json", "--svg", "x.svg"]

    done = run(folder, "tiny:app", *words, "--backend", backend)

    assert done.exit_code == 0, done.output
    found = json.loads((folder / "x.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["RequestID", "Retry", "all"]
    assert found["rows"][0]["alone"]["message"] is None  # it does not stream
    assert (found["backend"], found["requests"]) == (backend, 2)
    assert "tiny" in found["app"]
    assert (folder / "x.svg").read_text().startswith("<svg")


def test_one_layer_is_no_stack(folder: Path) -> None:
    """It is measured once."""
    done = run(folder, "tiny:app", "--layers", "requestid", "--json", "x.json")

    assert done.exit_code == 0, done.output
    [row] = json.loads((folder / "x.json").read_text())["rows"]
    assert (row["name"], row["stack"]) == ("RequestID", None)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "words",
    [
        ["--path", "/echo", "--body", '{"model":"m","messages":[]}'],
        ["--path", "/stream", "--layers", "AccessLog,Deadline"],
    ],
)
def test_a_fastapi_app(folder: Path, backend: str, words: list[str]) -> None:
    """Within its lifespan; of a stream also what a message costs."""
    done = run(folder, "fast:app", *words, "--backend", backend, "--json", "x.json")

    assert done.exit_code == 0, done.output
    rows = json.loads((folder / "x.json").read_text())["rows"]
    assert all((row["alone"]["message"] is not None) == ("/stream" in words) for row in rows)


def test_the_request_is_the_users(folder: Path) -> None:
    """Method, path, query, header and body; and the lifespan's state, until it ends."""
    (folder / "body").write_text("hello")
    words = ["--method", "put", "--path", "/x?y=1", "--body", "body", "--header", "X-Mine: yes"]

    done = run(folder, "tiny:checks", *words, "--layers", "RequestID")

    assert done.exit_code == 0, done.output
    assert sys.modules[f"tiny_{folder.name}"].lives == ["ended"]


@pytest.mark.parametrize(
    ("app", "words", "told"),
    [
        ("tiny", [], "is not of the form module:app"),
        ("nosuch:app", [], "cannot import"),
        ("broken:app", [], "No module named 'no_such_thing'"),
        ("tiny:nothing", [], "has no 'nothing'"),
        ("tiny:number", [], "is no ASGI app: int"),
        ("tiny:make", [], "--factory"),
        ("tiny:breaks", ["--factory"], "raised LookupError: no config"),
        ("tiny:app", ["--layers", "Retry,Nosuch"], "unknown layer Nosuch; known: RequestID"),
        ("tiny:app", ["--layers", ","], "unknown layer"),
        ("tiny:app", ["--header", "nonsense"], "not of the form name: value"),
        ("tiny:raises", [], "the app raised LookupError: nothing here"),
        ("tiny:fails", [], "the app answered 503"),
        ("tiny:tires", ["--layers", "ErrorMap"], "the app answered 503 while it was measured"),
        ("tiny:app", ["--body", "nosuch.json"], "cannot read 'nosuch.json': No such file"),
        ("tiny:app", ["--body", "a\0b.json"], "no file's name"),
        ("tiny:app", ["--json", "nosuch/x.json"], "there is no folder nosuch"),
        ("tiny:flips", [], "RequestID around the app answered 404, the app 200"),
        ("tiny:half", [], "did not complete its response"),
        ("tiny:refuses", [], "startup failed: no database"),
        ("tiny:app", ["--layers", "Hold", "--method", "POST"], "Hold around the app raised"),
        ("fast:app", ["--path", "/echo", "--body", "{"], "note: the app answers 422"),
    ],
)
def test_what_cannot_be_measured(folder: Path, app: str, words: list[str], told: str) -> None:
    """Exit code 2 and the reason; a client's error is measured with a note."""
    done = run(folder, app, *words)

    assert done.exit_code == (0 if told.startswith("note") else 2), done.output
    assert told in done.output


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("app", ["endless", "silent"])
def test_a_response_without_an_end(
    folder: Path, app: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for: exit code 1, the app and the seconds."""
    monkeypatch.setattr(bench_app, "PATIENCE", 0.1)

    done = run(folder, f"tiny:{app}", "--backend", backend)

    assert done.exit_code == 1, done.output
    told = f"tiny_{folder.name}:{app}: the app did not end its response within 0.1 s"
    assert told in done.output


def test_a_factory(folder: Path) -> None:
    """A function without arguments that gives the app."""
    assert run(folder, "tiny:make", "--factory", "--layers", "ErrorMap").exit_code == 0


def test_the_turn_is_as_long_as_the_app_is_slow(folder: Path) -> None:
    """Without --requests it is measured first."""
    words = ["bench", "app", f"tiny_{folder.name}:app", "--rounds", "5", "--layers", "Auth"]

    done = CliRunner().invoke(main, [*words, "--json", "x.json"])

    assert done.exit_code == 0, done.output
    assert 2 <= json.loads((folder / "x.json").read_text())["requests"] <= 300


def names(request: Request, wanted: str | None = None) -> list[str]:
    return [one.name for one in chosen(wanted, request)]


def test_which_layers_make_sense() -> None:
    """Those that read a chat request only around one; deployments are the gateway's own."""
    chat = request_of(None, "/v1", b'{"model":"m","messages":[{"role":"user","content":"x"}]}', [])

    assert {"Hold", "Inference"} <= set(names(chat))
    found = names(request_of(None, "/", b"", []))
    assert not {"Hold", "Inference", "Fallback", "Loopback"} & set(found)
    assert {"RequestID", "ErrorMap", "Auth", "Retry"} <= set(found)
    assert names(chat, "Fallback,Loopback") == ["Loopback", "Fallback"]


def test_the_default_request() -> None:
    """GET without a body, POST with one; a given header replaces ours."""
    assert request_of(None, "x", b"", []).method == "GET"
    found = request_of(None, "x", b"{}", ["Authorization: Bearer mine"])

    assert (found.method, found.target) == ("POST", "/x")
    assert dict(found.headers)[b"authorization"] == b"Bearer mine"
    assert dict(found.headers)[b"content-length"] == b"2"


@pytest.mark.parametrize("text", ["{}", "x" * 5000, "a\0b", ".", '{"file": 1}.json', '"x.json'])
def test_what_is_no_file_is_the_body(text: str) -> None:
    """A name that cannot be one, too."""
    assert body_of(text) == text.encode()


async def test_a_longer_stream_has_only_more_messages() -> None:
    """Start and end come once."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b"a", "more_body": True})
        await send({"type": BODY, "body": b"b"})

    async def send(message: Any) -> None:
        seen.append(message.get("body"))

    await Repeated(app, 3)({}, Request, send)  # type: ignore[arg-type]

    assert seen == [None, b"a", b"a", b"a", b"b"]
    subject = subject_of(app, Request(), 1)
    client = await drive(*subject.long, 1)
    assert client.pieces == 1 + subject.messages


def test_an_app_that_ends_badly(folder: Path) -> None:
    """Its lifespan counts too."""
    (folder / f"tiny_{folder.name}.py").write_text(
        TINY.replace('lives.append("ended")', 'raise LookupError("no end")')
    )
    words = ["--method", "PUT", "--path", "/x?y=1", "--body", "hello", "--header", "x-mine: yes"]

    done = run(folder, "tiny:checks", *words, "--layers", "RequestID")

    assert done.exit_code == 2
    assert "lifespan raised LookupError: no end" in done.output
