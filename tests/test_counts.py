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
    """By more than a tenth; what has shrunk as much is told, to be recorded."""
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


def test_a_tenth_more_is_allowed_but_no_object_left() -> None:
    """A core that may not change by two allocations would never be made clearer."""
    base = {"calls": 100.0, "blocks": 50.0, "peak bytes": 1000.0, "message bytes": 0.0}
    nothing = {"objects left": 0.0, "blocks kept": 0.0}

    assert not counts.higher(
        {"calls": 110.0, "blocks": 55.0, "peak bytes": 1100.0, "message bytes": 16.0}, base
    )
    assert counts.higher({"calls": 110.3}, base) == ["calls: 110.3, recorded 100"]
    assert counts.higher({"blocks": 56.0}, base)
    assert counts.higher({"peak bytes": 1101.0}, base)
    assert counts.higher({"message bytes": 17.0}, base)
    assert counts.higher({"objects left": 0.1}, nothing)
    assert counts.higher({"blocks kept": 1}, nothing)
    assert counts.lower({"calls": 89.0}, base) == ["calls: 89, recorded 100"]
