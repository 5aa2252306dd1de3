"""The hot path does not grow unnoticed: calls are counted; times depend on the machine."""

from __future__ import annotations

import anyio
import pytest

from benchmarks import counts


@pytest.mark.skipif(
    counts.VERSION not in counts.recorded(),
    reason=f"no baseline for Python {counts.VERSION}: python -m benchmarks.counts records one",
)
def test_calls_on_the_hot_path() -> None:
    """Not one more than is recorded; a new baseline is a change of its own."""
    found = anyio.run(counts.measure)

    baseline = counts.recorded()[counts.VERSION]
    assert {name: found[name] <= baseline[name] for name in baseline} == dict.fromkeys(
        baseline, True
    ), (found, baseline)
