"""The benches' arithmetic."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import line_of, percentile, summary
from benchmarks.latency import added
from benchmarks.litellm import row_of

TIMES = st.lists(st.floats(0, 1e6), min_size=1)


@given(TIMES, st.floats(0, 1))
def test_a_percentile_lies_among_the_values(values: list[float], share: float) -> None:
    """Between the least and the most, and it grows with its share."""
    found = percentile(values, share)

    assert min(values) - 1e-6 <= found <= max(values) + 1e-6
    assert found <= percentile(values, 1) + 1e-6


@given(TIMES)
def test_the_middle_percentile_is_the_median(values: list[float]) -> None:
    """As everybody else has it."""
    assert percentile(values, 0.5) == pytest.approx(statistics.median(values))


@given(st.lists(st.floats(0, 1e6), min_size=101, max_size=101))
def test_the_99th_of_101_values_is_the_last_but_one(values: list[float]) -> None:
    """Not the worst of all."""
    assert percentile(values, 0.99) == pytest.approx(sorted(values)[-2])


@given(
    st.floats(0.01, 1e3),
    st.floats(1, 1e3),
    st.lists(st.integers(1, 10_000), min_size=2, unique=True),
)
def test_a_line_is_found_again(slope: float, start: float, places: list[int]) -> None:
    """From points that lie on it, and then none is off."""
    found = line_of([(x, start + slope * x) for x in places])

    assert found.slope == pytest.approx(slope, rel=1e-3)
    assert found.off == pytest.approx(0, abs=1e-6)


def test_a_curve_is_told_from_a_line() -> None:
    """What grows by the square is far off every line."""
    curve = [(float(x), float(x**2)) for x in (10, 100, 1000)]

    assert line_of(curve).off > 0.5


def test_what_a_gateway_adds_is_by_percentile() -> None:
    """p50 less p50, p99 less p99; in milliseconds."""
    floor = [0.001] * 99 + [0.002] * 2
    found = [value + 0.005 for value in floor]

    assert added(found, floor) == {"p50_ms": 5.0, "p99_ms": 5.0}


def test_a_summary_has_the_range() -> None:
    """Rounded for people."""
    assert summary([3.04, 1.0, 9.0]) == {"median": 3.0, "low": 1.0, "high": 9.0}


def test_ours_is_so_many_times_the_bare_call() -> None:
    """By the median of the rounds' ratios."""
    row = row_of("an answer", [(1000.0, 1100.0), (2000.0, 2200.0), (1000.0, 1500.0)])

    assert (row["bare_us"], row["ratio"]["median"]) == (1000.0, 1.1)
