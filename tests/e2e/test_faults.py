"""Every fault of the wall, streamed and whole, alone and with a fallback, on both paths.

The gateway is a process, the wall raw sockets. All rows are asked once, some at a time; each test
then looks at one outcome.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from tests import faults
from tests.e2e.conftest import Serve
from tests.faults import ROWS, Row
from tests.upstreams.wall import BIG, FAULTS, TEXT, UNICODE, Wall

WORKERS = 6  # requests at a time: more would measure this machine
PATHS = ("openai", "litellm")
MODES = {
    "stream": (True, False),
    "whole": (False, False),
    "stream_next": (True, True),
    "whole_next": (False, True),
}
SILENT = {"silence", "headers-then-silence", "never-content"}
STALLING = {"stall", "endless"}
GOOD = {TEXT, UNICODE, "x" * BIG}


@attrs.frozen
class Outcome:
    """What a client got, and how long it took."""

    said: str
    seconds: float
    text: str
    headers: dict[str, str]
    raw: bytes


@attrs.frozen
class Case:
    """One request: a fault, a path to it, and how it is asked."""

    row: Row
    path: str
    mode: str

    @property
    def id(self) -> str:
        """Its name, in tests and as a model group."""
        return f"{self.row.name}-{self.path}-{self.mode}"

    def config(self, wall: Wall) -> str:
        """Its model group: the deployments are its own, so that none cools for another."""
        places = [f"{self.row.model}:{self.id}"]
        if MODES[self.mode][1]:
            places.append(f"well:{self.id}")
        deployments = [
            f'[[models.deployments]]\nmodel = "openai/{place}"\napi_base = "{wall.url}/v1"\n'
            f'api_key_env = "WALL_KEY"\nvia = "{self.path}"\n'
            for place in places
        ]
        return f'[[models]]\nname = "{self.id}"\n' + "".join(deployments)


CASES = {
    case.id: case
    for case in (Case(row, path, mode) for row in ROWS for path in PATHS for mode in MODES)
}
WARM = Case(Row("well:warm", "ok", "ok"), "litellm", "whole_next")


def read_stream(body: bytes) -> tuple[str, str]:
    """How a stream ended, and what it said: exactly one of ``[DONE]`` and an error event."""
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    text = ""
    for number, event in enumerate(events):
        last = number == len(events) - 1
        if event == b"[DONE]":
            return ("ok" if last else "more after the end"), text
        data = json.loads(event)
        if "error" in data:
            status = 504 if data["error"]["type"] == "timeout_error" else 502
            return (f"event {status}" if last else "more after the error"), text
        text += "".join(one["delta"].get("content") or "" for one in data["choices"])
    return "cut off", text


def ask(port: int, model: str, *, stream: bool) -> Outcome:
    """Ask as the strictest client would: what is not complete is not taken."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    began = time.monotonic()
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    seconds = time.monotonic() - began
    text = ""
    if response.status != 200:
        said = str(response.status)
        assert set(json.loads(raw)["error"]) == {"message", "type", "param", "code"}
    elif stream:
        said, text = read_stream(raw)
    else:
        said, text = "ok", json.loads(raw)["choices"][0]["message"]["content"]
    return Outcome(said, seconds, text, dict(response.getheaders()), raw)


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    with Wall() as running:
        yield running


@pytest.fixture(scope="module")
def outcomes(serve: Serve, wall: Wall) -> Iterator[dict[str, Outcome]]:
    """All rows, asked."""
    config = faults.SETTINGS + "".join(case.config(wall) for case in (WARM, *CASES.values()))
    with serve(config, {"WALL_KEY": "sk-wall"}) as server:
        for streamed in (False, True):  # LiteLLM's imports take seconds, and are not measured
            while ask(server.port, WARM.id, stream=streamed).said != "ok":
                pass
        with ThreadPoolExecutor(WORKERS) as pool:
            tasks = {
                case.id: pool.submit(ask, server.port, case.id, stream=MODES[case.mode][0])
                for case in CASES.values()
            }
            yield {name: task.result() for name, task in tasks.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_outcome(name: str, outcomes: dict[str, Outcome]) -> None:
    """As the table says; and an answer that is taken for complete is the whole one."""
    case, got = CASES[name], outcomes[name]

    assert got.said == getattr(case.row, case.mode), got.raw[-300:]
    if got.said == "ok":
        assert got.text in GOOD


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_time(name: str, outcomes: dict[str, Outcome]) -> None:
    """Not later than the clocks and the backoffs say."""
    case, got = CASES[name], outcomes[name]
    wait = case.row.wait[list(MODES).index(case.mode)]

    limited = case.row.name.startswith("429") and MODES[case.mode][1]
    assert got.seconds < wait + (faults.ONCE if limited else faults.FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_attempts(name: str, outcomes: dict[str, Outcome], wall: Wall) -> None:
    """Silence is waited for once, a limit with an alternative asked once, a failure three times."""
    case = CASES[name]
    asked = len(wall.of(f"{case.row.model}:{case.id}"))
    stream, fallback = MODES[case.mode]

    silent = case.row.name in SILENT or (case.row.name in STALLING and not stream)
    if silent or (case.row.name.startswith("429") and fallback):
        assert asked == 1
    elif case.row.name in ("503", "html-502", "flapping") or (case.row.name == "429"):
        assert asked == 3


@pytest.mark.slow
def test_nothing_of_the_upstream_leaks(outcomes: dict[str, Outcome]) -> None:
    """No key, no page, no trace."""
    for got in outcomes.values():
        if got.said != "ok":
            assert not any(word in got.raw for word in (b"sk-wall", b"<html", b"Traceback"))


@pytest.mark.slow
def test_clients_are_told_not_to_repeat(outcomes: dict[str, Outcome]) -> None:
    """Every failure of an upstream was retried here as often as it is worth."""
    for got in outcomes.values():
        if got.said in ("429", "502", "504"):
            assert got.headers.get("x-should-retry") == "false"
        if got.said == "429":
            assert int(got.headers["retry-after"]) >= 1


@pytest.mark.slow
def test_nothing_stays_open(outcomes: dict[str, Outcome], wall: Wall) -> None:
    """What was given up is closed: no attempt is still served for nobody."""
    stalled = SILENT | STALLING

    def all_closed() -> bool:
        return all(
            attempt.closed_at is not None
            for attempt in wall.attempts
            if attempt.model.partition("@")[0].partition(":")[0] in stalled
        )

    wall.wait_until(all_closed)


def test_every_fault_is_in_the_table() -> None:
    """A fault without an expectation proves nothing."""
    assert {row.name for row in ROWS} == set(FAULTS)


def test_the_table_stands_in_the_documentation() -> None:
    """``python -m tests.faults`` writes it."""
    page = faults.PAGE.read_text()

    assert faults.rendered(page) == page
