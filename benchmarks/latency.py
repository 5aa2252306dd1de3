"""How much latency does the gateway add at a fixed rate, to an answer and to a stream's first byte?

The load comes at fixed times, whether answered or not; the same load straight to the upstream is
taken off, percentile by percentile. In turns, the others asleep; the upstream answers at once, a
stream is short: what is asked is when it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from benchmarks import figures, load, options, processes, results
from benchmarks.client import request_of
from benchmarks.field import Field, by_cost, prepared
from benchmarks.processes import Running

RATES = (30, 100)  # requests a second
ROUNDS, SECONDS = 4, 5.0
LATE = 1.1  # a round that takes so many times as long as it should: the rate is not held
WARM = 0.3  # seconds, after a sleep
STRAIGHT = "straight"


@attrs.frozen
class Kind:
    """What is asked, and how often."""

    rate: int
    stream: bool

    @property
    def name(self) -> str:
        """For people."""
        return f"{'first byte' if self.stream else 'answer'} at {self.rate}/s"


KINDS = [Kind(rate, stream) for stream in (False, True) for rate in RATES]


def times_of(port: int, request: bytes, kind: Kind, seconds: float) -> list[float]:
    """What a round of load waited. Raises RuntimeError when the rate is not held."""
    load.run(load.open_loop(port, request, kind.rate, min(WARM, seconds)))
    found = load.run(load.open_loop(port, request, kind.rate, seconds))
    if found.failures:
        raise RuntimeError(f"{found.failures} failures, the first: {found.failure}")
    if found.took > seconds * LATE + 0.5:
        raise RuntimeError(f"cannot hold {kind.rate} requests a second")
    return found.firsts if kind.stream else found.latencies


def added(found: Sequence[float], floor: Sequence[float]) -> dict[str, float]:
    """Milliseconds more than straight, by percentile."""
    return {
        name: round((figures.percentile(found, share) - figures.percentile(floor, share)) * 1e3, 2)
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))
    }


def measure(field: Field, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Added p50 and p99, in ms, by gateway and kind."""
    seen: dict[tuple[str, str], list[float]] = {}
    field.upstream.tell(events=10)
    port = field.upstream.port
    with processes.all_running(field.rigs, field.folder) as every:
        for number in range(rounds):
            for kind in KINDS:
                straight = times_of(port, request_of(port, "m", stream=kind.stream), kind, seconds)
                seen.setdefault((STRAIGHT, kind.name), []).extend(straight)
                for one in every:
                    if kind.stream and not one.rig.streams:
                        continue

                    def go(one: Running = one, kind: Kind = kind) -> None:
                        request = one.rig.request(stream=kind.stream)
                        with one.awake():
                            found = times_of(one.rig.port, request, kind, seconds)
                        seen.setdefault((one.name, kind.name), []).extend(found)

                    field.attempt(f"{one.name}, {kind.name}", go)
            print(f"round {number + 1} of {rounds}")
        names = [one.name for one in every]
    return [row_of(name, seen, field.failed) for name in names]


def row_of(
    name: str,
    seen: Mapping[tuple[str, str], Sequence[float]],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """A gateway's row; a kind that failed once is not in it."""
    row: dict[str, Any] = {"name": name}
    for kind in KINDS:
        if (name, kind.name) in seen and f"{name}, {kind.name}" not in failed:
            row[kind.name] = added(seen[name, kind.name], seen[STRAIGHT, kind.name])
    return row


def main() -> None:
    """Measure what is here, keep the figures."""
    given = options.read()
    with prepared(given) as field:
        rows = measure(field, given.pick(ROUNDS, 1), given.pick(SECONDS, 0.5))
    first = KINDS[0].name
    by_cost(rows, lambda row: row.get(first, {}).get("p50_ms"))
    columns: list[results.Column] = [
        (f"{kind.name}, {p}", lambda row, kind=kind, p=p: row.get(kind.name, {}).get(f"{p}_ms"))
        for kind in KINDS
        for p in ("p50", "p99")
    ]
    print(results.table(rows, columns))
    results.write("latency", {**field.facts(), "rows": rows}, given)


if __name__ == "__main__":
    main()
