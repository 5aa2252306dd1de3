"""The bench: it measures what it says, and hides what it does not know; no time is asserted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from xml.etree import ElementTree

import anyio
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from llmgw import logs
from llmgw.apps import bench, bench_layers, bench_report
from llmgw.apps.bench import Comparison, Cost, Costs, Row, cost_of, slopes_of
from llmgw.apps.bench_chart import chart
from llmgw.apps.bench_drive import Request, as_served, drive
from llmgw.apps.bench_report import HIDDEN, Report, shown, table
from llmgw.apps.cli import main
from llmgw.asgi import BODY, START, ASGIApp, Receive, Scope, Send

EXPECTED = [
    *("RequestID", "AccessLog", "Tracing", "Metrics", "ErrorMap", "Drain", "Auth"),
    *("LoopGuard", "Admission"),
    *("Hold", "Inference", "Deadline", "Fallback", "Retry", "all"),
]
TIMES = st.floats(0.1, 1000)
REPORT = Report(
    app="an app of <angles> & more",
    backend="trio",
    rounds=15,
    requests=300,
    rows=[
        Row("Retry", Costs(Cost(18.5, 0.5, 2.61), Cost(0.64, 0.02, 1.2)), None),
        Row("Auth", Costs(Cost(None, 9.0), None), Costs(Cost(None, 0.01, small=True), None)),
        Row("Odd", Costs(Cost(-0.4, 0.1, 0.99), None), None),
    ],
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_layer_is_measured(backend: str) -> None:
    """Those of the gateway, alone and in the stack; and all of them together."""
    rows = bench_layers.measure(backend, rounds=2, requests=2)

    assert [row.name for row in rows] == EXPECTED
    assert [row.name for row in rows if row.stack is None] == ["all"]
    assert all(row.alone.message is not None for row in rows)


def around(cost: float, noise: list[float]) -> list[tuple[float, float]]:
    return [(10.0 + wave, 10.0 + wave + cost) for wave in noise]


@given(st.floats(1, 50), st.lists(st.floats(0, 1000), min_size=5))
def test_noise_that_meets_both_is_not_in_the_cost(cost: float, noise: list[float]) -> None:
    """The pairs are what makes it steady."""
    found = cost_of(around(cost, noise))

    assert found.us == pytest.approx(cost, abs=0.002)
    assert found.ratio is not None


@given(st.lists(st.tuples(TIMES, TIMES), min_size=2))
def test_a_number_is_shown_only_when_it_is_twice_its_spread(
    pairs: list[tuple[float, float]],
) -> None:
    """Whatever was measured."""
    found = cost_of(pairs)

    if found.us is None:
        assert shown(found) in (HIDDEN, "< 0.05")
    else:
        assert found.spread <= abs(found.us) / 2 + 0.001
        assert f"{found.us:.2f}" in shown(found)


def test_two_rounds_that_differ_tell_nothing() -> None:
    """The middle half of two is no spread."""
    assert cost_of([(1.0, 4.0), (1.0, 9.0)]).us is None


@given(TIMES, TIMES, st.floats(0, 10), st.floats(0, 10), st.integers(1, 200))
def test_a_messages_cost_has_nothing_of_a_requests(
    request: float, layer: float, message: float, layer_message: float, count: int
) -> None:
    """Two streams of one app differ in messages only."""
    short = [(request, request + layer)]
    long = [(request + count * message, request + layer + count * layer_message)]

    [(without, within)] = slopes_of(short, long, count)

    assert without == pytest.approx(message, abs=1e-6)
    assert within == pytest.approx(layer_message, abs=1e-6)


def note(seen: list[str], name: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(name)
        await receive()
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b""})

    return app


async def test_the_order_of_turns_cancels_what_drifts() -> None:
    """A B B A, and in every other round B A A B."""
    seen: list[str] = []
    a, b = note(seen, "a"), note(seen, "b")

    await bench.pair(a, b, Request(), 2)
    await bench.pair(a, b, Request(), 2, turned=True)

    assert "".join(seen) == "abbabaab"


async def test_the_first_round_warms_up() -> None:
    """It is driven, and not counted."""
    seen: list[str] = []
    ask = (note(seen, "a"), Request())
    comparison = Comparison("x", "alone", bench_layers.bare, bench_layers.bare)
    series = bench.Series(comparison, bench.Subject(ask, ask, ask, 0))

    for number in range(3):
        await series.run(number, 2)

    assert len(series.whole) == 2
    assert series.costs.message is None
    assert len(seen) == 3 * 4


async def test_a_client_stays_until_the_response_is_complete() -> None:
    """Then it is gone; pieces are all of the body but its end."""
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        told.append((await receive())["type"])
        await send({"type": START, "status": 201, "headers": []})
        await send({"type": BODY, "body": b"a", "more_body": True})
        await send({"type": BODY, "body": b""})
        told.append((await receive())["type"])

    client = await drive(app, Request(target="/x?y=1"), 1)

    assert told == ["http.request", "http.disconnect"]
    assert (client.status, client.pieces, client.complete) == (201, 1, True)


async def test_a_client_is_waited_for_while_the_response_goes_on() -> None:
    """As apps do that watch it in a task of its own."""
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            told.append((await receive())["type"])

        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            told.append("waits")
            await send({"type": START, "status": 200, "headers": []})
            await send({"type": BODY, "body": b""})

    await drive(app, Request(), 1)

    assert told == ["waits", "http.disconnect"]


def test_a_version_that_is_not_here() -> None:
    """Is left out."""
    assert bench_report.version_of("no-such-thing") is None
    assert "no-such-thing" not in bench_report.versions(["anyio", "no-such-thing"])


def test_the_scope_is_a_servers() -> None:
    """Path and query are apart; the state of a lifespan is there when there is one."""
    scope = Request(target="/x?y=1", state={"a": 1}).scope()

    assert (scope["path"], scope["query_string"], scope["state"]) == ("/x", b"y=1", {"a": 1})
    assert "state" not in Request().scope()


async def test_the_process_is_left_as_it_was() -> None:
    """Logging, too: the lines of a measurement go nowhere."""
    log = logging.getLogger(logs.LOGGER)
    before = list(log.handlers), log.level, log.propagate

    async with as_served():
        assert log.level == logging.INFO

    assert (list(log.handlers), log.level, log.propagate) == before


def test_the_table_names_its_units_and_hides_what_is_not_known() -> None:
    """A line a layer; no number where there is none."""
    text = table(REPORT)

    assert "us a request" in text
    assert "18.50 ± 0.50 (2.61x)" in text
    line = next(line for line in text.splitlines() if line.startswith("Auth"))
    assert line.split() == ["Auth", *HIDDEN.split(), "-", "<", "0.05", "-"]


def test_a_report_survives_json() -> None:
    """And what others add to it is no harm."""
    data = json.loads(bench_report.encode(REPORT))

    assert bench_report.decode(json.dumps({**data, "commit": "abc"}).encode()) == REPORT
    assert data["versions"]["anyio"]


def test_the_chart_is_a_picture_of_the_report() -> None:
    """Valid XML; a bar for what is known, words for what is not."""
    found = ElementTree.fromstring(chart(REPORT))
    texts = ["".join(one.itertext()) for one in found.iter("{http://www.w3.org/2000/svg}text")]

    assert {"Retry", "Auth", "Odd", "18.50", "0.64", HIDDEN, "a streamed message"} <= set(texts)
    assert any("<angles> & more" in text for text in texts)
    for one in found.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(one.attrib["width"]) >= 0


def test_the_command_writes_json_and_a_chart(tmp_path: Path) -> None:
    """Of the same figures; the machine and the versions are told."""
    figures, drawn = tmp_path / "layers.json", tmp_path / "layers.svg"
    words = ["bench", "layers", "--rounds", "5", "--requests", "2"]

    done = CliRunner().invoke(main, [*words, "--json", str(figures), "--svg", str(drawn)])

    assert done.exit_code == 0, done.output
    found = bench_report.decode(figures.read_bytes())
    assert (found.backend, found.rounds, found.requests) == ("asyncio", 5, 2)
    assert [row.name for row in found.rows] == EXPECTED
    assert drawn.read_text() == chart(found)
    assert "RequestID" in done.output
