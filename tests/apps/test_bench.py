"""The bench: it measures what it says, and hides what it does not know; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmgw.apps import bench
from llmgw.apps.bench import Cost, Row
from llmgw.apps.cli import main

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_layer_is_measured(backend: str) -> None:
    """Those of the gateway but Tracing, which is off; and all of them together."""
    rows = bench.measure(backend, rounds=2, requests=2)

    expected = [
        *("RequestID", "AccessLog", "Metrics", "ErrorMap", "Drain", "Auth", "Admission"),
        *("Hold", "Inference", "Deadline", "Fallback", "Retry", "all"),
    ]
    assert [row.name for row in rows] == expected


@pytest.mark.parametrize(
    ("differences", "median", "known"),
    [([5.0, 5.1, 4.9, 5.0], 5.0, True), ([-40.0, 3.0, 60.0, 9.0], 6.0, False)],
)
def test_a_spread_that_hides_the_median_hides_the_number(
    differences: list[float], median: float, known: bool
) -> None:
    """What is not known is not printed."""
    cost = bench.cost_of(differences)

    assert (cost.median, cost.known) == (median, known)
    assert (bench.shown(cost) == "hidden by noise") is not known


def test_the_table_names_its_units() -> None:
    """A line a layer."""
    text = bench.table([Row("Retry", Cost(18.5, 0.5), Cost(0.64, 0.02))])

    assert "us a request" in text
    assert "18.50 ± 0.50" in text


def test_the_command_writes_json(tmp_path: Path) -> None:
    """With the machine and the versions."""
    path = tmp_path / "layers.json"
    words = ["bench", "layers", "--rounds", "2", "--requests", "1", "--json", str(path)]

    done = CliRunner().invoke(main, words)

    found = json.loads(path.read_text())
    assert done.exit_code == 0, done.output
    assert found["backend"] == "asyncio"
    assert found["layers"][0]["name"] == "RequestID"
    assert found["versions"]["anyio"]


def test_the_published_table_is_that_of_the_results() -> None:
    """``python -m benchmarks.layers`` writes both."""
    from benchmarks import layers

    page = layers.PAGE.read_text()

    assert layers.rendered(page) == page
