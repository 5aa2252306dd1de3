"""The hot path does not grow unnoticed: calls and allocations are counted; times depend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import counts

RECORD = "python -m benchmarks.counts"
FIGURES = st.dictionaries(st.sampled_from(["calls", "bytes"]), st.floats(0, 1e6))


@pytest.mark.skipif(
    counts.VERSION not in counts.recorded(),
    reason=f"no baseline for Python {counts.VERSION}: {RECORD} records one",
)
def test_the_hot_path_has_not_grown(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a call more than is recorded; what has shrunk is told, to be recorded."""
    found, baseline = counts.count_apart(), counts.recorded()[counts.VERSION]

    if news := counts.lower(found, baseline):
        with capsys.disabled():
            print(f"\nfewer than recorded; {RECORD} records them:", *news, sep="\n  ")
    assert not counts.higher(found, baseline)
    assert set(found) == set(baseline), f"{RECORD} records what is new"


@given(FIGURES, FIGURES)
def test_what_is_higher_is_not_lower(found: dict[str, float], baseline: dict[str, float]) -> None:
    """A name is in one list or in none; the same figures are in none."""
    higher = {line.partition(":")[0] for line in counts.higher(found, baseline)}
    lower = {line.partition(":")[0] for line in counts.lower(found, baseline)}

    assert not higher & lower
    assert not counts.higher(found, found)
    assert not counts.lower(found, found)


def test_bytes_may_vary_a_little_and_calls_by_less_than_one() -> None:
    """A time in a log line is a digit longer, a timer of the loop falls due, now and then."""
    base = {"calls": 100.0, "peak bytes": 1000.0}

    assert not counts.higher({"calls": 100.1, "peak bytes": 1019.0}, base)
    assert counts.higher({"calls": 100.3}, base) == ["calls: 100.3, recorded 100"]
    assert counts.higher({"objects left": 0.1}, {"objects left": 0.0})
    assert counts.higher({"peak bytes": 1021.0}, base)
    assert counts.lower({"calls": 94.0}, base) == ["calls: 94, recorded 100"]
