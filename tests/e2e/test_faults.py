"""Every fault of the wall, streamed and whole, alone and with a fallback, on both paths.

The gateway is a process, the wall raw sockets. All rows are asked once, some at a time; each test
then looks at one outcome.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from tests import faults
from tests.e2e.conftest import Serve
from tests.faults import ENDLESS, PATIENT, ROWS, SHORT, SILENT, Row
from tests.upstreams.wall import BIG, FAULTS, TEXT, UNICODE, Wall

WORKERS = 6  # requests at a time: more would measure this machine
PATHS = ("openai", "litellm")
MODES = {
    "stream": (True, False),
    "whole": (False, False),
    "stream_next": (True, True),
    "whole_next": (False, True),
}
GOOD = {TEXT, UNICODE, "x" * BIG}


@attrs.frozen
class Outcome:
    """What a client got."""

    said: str
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


def ask(port: int, model: str, *, stream: bool, deadline: float | None = None) -> Outcome:
    """Ask as the strictest client would: what is not complete is not taken."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"content-type": "application/json"}
    if deadline is not None:
        headers["x-request-timeout"] = str(deadline)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    text = ""
    if response.status != 200:
        said = str(response.status)
        assert set(json.loads(raw)["error"]) == {"message", "type", "param", "code"}
    elif stream:
        said, text = read_stream(raw)
    else:
        said, text = "ok", json.loads(raw)["choices"][0]["message"]["content"]
    return Outcome(said, text, dict(response.getheaders()), raw)


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    with Wall() as running:
        yield running


def ask_all(serve: Serve, wall: Wall, clock: float, cases: Sequence[Case]) -> dict[str, Outcome]:
    """Ask a gateway whose clocks are all alike for these cases, some at a time."""
    config = faults.settings(clock) + "".join(case.config(wall) for case in (WARM, *cases))
    with serve(config, {"WALL_KEY": "sk-wall"}) as server:
        for streamed in (False, True):  # LiteLLM's imports take longer than a short clock
            while ask(server.port, WARM.id, stream=streamed).said != "ok":
                pass
        with ThreadPoolExecutor(WORKERS) as pool:
            tasks = {
                case.id: pool.submit(
                    ask,
                    server.port,
                    case.id,
                    stream=MODES[case.mode][0],
                    deadline=ENDLESS if case.row.name == "endless" else None,
                )
                for case in cases
            }
            return {name: task.result() for name, task in tasks.items()}


@pytest.fixture(scope="module")
def outcomes(serve: Serve, wall: Wall) -> dict[str, Outcome]:
    """All rows, asked: those that are silent on purpose of a gateway with short clocks."""
    silent = [case for case in CASES.values() if case.row.name in SILENT]
    others = [case for case in CASES.values() if case.row.name not in SILENT]
    with ThreadPoolExecutor(2) as pool:
        quick = pool.submit(ask_all, serve, wall, SHORT, silent)
        patient = pool.submit(ask_all, serve, wall, PATIENT, others)
        return quick.result() | patient.result()


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
def test_attempts(name: str, outcomes: dict[str, Outcome], wall: Wall) -> None:
    """Silence is waited for once, a limit with an alternative asked once, a failure three times."""
    case = CASES[name]
    asked = len(wall.of(f"{case.row.model}:{case.id}"))

    assert asked == case.row.attempts[list(MODES).index(case.mode)]


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

    def all_closed() -> bool:
        return all(
            attempt.closed_at is not None
            for attempt in wall.attempts
            if attempt.model.partition("@")[0].partition(":")[0] in SILENT
        )

    wall.wait_until(all_closed)


def test_every_fault_is_in_the_table() -> None:
    """A fault without an expectation proves nothing."""
    assert {row.name for row in ROWS} == set(FAULTS)


def test_the_table_stands_in_the_documentation() -> None:
    """``python -m tests.faults`` writes it."""
    page = faults.PAGE.read_text()

    assert faults.rendered(page) == page
