"""Series: what is counted quickly is counted as the library counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from llmgw.series import QuickGauge, QuickHistogram

BOUNDS = (0.1, 1.0, 10.0)
VALUES = st.lists(st.sampled_from([*BOUNDS, 10.1]) | st.floats(0, 100), max_size=20)


@given(VALUES)
def test_a_histogram_counts_as_the_librarys_own(values: list[float]) -> None:
    """The bounds included: a value on a bound is below it."""
    texts: list[bytes] = []
    for kind in (Histogram, QuickHistogram):
        registry = CollectorRegistry()
        child = kind("h", "text", ["a"], buckets=BOUNDS, registry=registry).labels("1")
        for value in values:
            child.observe(value)
        lines = generate_latest(registry).splitlines()
        texts.append(b"\n".join(line for line in lines if b"_created" not in line))

    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", [Gauge, QuickGauge])
def test_a_gauge_goes_up_and_down(kind: type[Gauge]) -> None:
    """By one, or by what is said."""
    registry = CollectorRegistry()
    gauge = kind("g", "text", registry=registry)
    gauge.inc()
    gauge.inc(3)
    gauge.dec()
    gauge.dec(0.5)

    assert registry.get_sample_value("g") == 2.5
