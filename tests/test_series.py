"""Series: what is counted quickly is counted as the library counts."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from llmgw.exchange import Exchange
from llmgw.series import NotingGauge, NotingHistogram, families_of

BOUNDS = (0.125, 1.0, 10.0)
EXACT = st.integers(0, 100 << 10).map(lambda number: number / 1024)  # in any order the same sum
VALUES = st.lists(st.sampled_from(BOUNDS) | EXACT, max_size=20)


def exposed(registry: CollectorRegistry) -> list[bytes]:
    """The lines without their times."""
    return [line for line in generate_latest(registry).splitlines() if b"_created" not in line]


@given(VALUES, VALUES)
def test_a_histogram_counts_as_the_librarys_own(values: list[float], more: list[float]) -> None:
    """The bounds included: a value on a bound is below it. Looking in between changes nothing."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    noting = NotingHistogram("h", "text", ["a"], buckets=BOUNDS, registry=ours).labels("1")
    own = Histogram("h", "text", ["a"], buckets=BOUNDS, registry=theirs).labels("1")
    for part in (values, more):
        for value in part:
            noting.note(value)
            own.observe(value)

        assert exposed(ours) == exposed(theirs)


@given(VALUES)
def test_a_gauge_goes_up_and_down_as_the_librarys_own(values: list[float]) -> None:
    """Amounts may be negative."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    noting, own = NotingGauge("g", "text", registry=ours), Gauge("g", "text", registry=theirs)
    for value in values:
        noting.note(3)
        noting.note(-value)
        own.inc(3)
        own.dec(value)

    assert exposed(ours) == exposed(theirs)


def test_nothing_is_lost_between_threads() -> None:
    """Some note, some look, some settle: each amount is counted once."""
    registry = CollectorRegistry()
    families = families_of(registry)
    labels = ("GET", "/", "200", "none", "none")

    def count(number: int) -> None:
        tally = families.tally(*labels)
        for _ in range(1000):
            tally.count(Exchange())
            if number % 2:
                families.settle()
        generate_latest(registry)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))

    named = {"provider": "none", "model": "none", "status": "200"}
    http = {"method": "GET", "path": "/", "status": "200"}
    assert registry.get_sample_value("llmgw_requests_total", named) == 8000
    assert registry.get_sample_value("http_server_request_duration_seconds_count", http) == 8000


SHARED = """
from prometheus_client import CollectorRegistry
from llmgw.exchange import Attempt, Exchange, Usage
from llmgw.series import families_of
families = families_of(CollectorRegistry())
families.active.note(1)
tally = families.tally("GET", "/", "200", "p", "m")
answer = Attempt(usage=Usage(3, 4, 7), first_token_at=1.25)
tally.count(Exchange(started_at=1.0, answer=answer))
families.active.note(-1)
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
everyone = CollectorRegistry()
MultiProcessCollector(everyone)
print(generate_latest(everyone).decode())
"""


def test_with_several_processes_each_amount_is_counted_at_once(tmp_path: Path) -> None:
    """Others read it from this process's files: nothing may wait there."""
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SHARED], env=env, check=True, capture_output=True, text=True
    )

    lines = done.stdout.splitlines()
    call = 'model="m",provider="p",status="200"'
    assert f"llmgw_requests_total{{{call}}} 1.0" in lines
    assert f"gen_ai_server_time_to_first_token_seconds_sum{{{call}}} 0.25" in lines
    assert f'gen_ai_client_token_usage_sum{{gen_ai_token_type="input",{call}}} 3.0' in lines
    assert "http_server_active_requests 0.0" in lines
    assert any(line.startswith("http_server_request_duration_seconds_sum") for line in lines)
