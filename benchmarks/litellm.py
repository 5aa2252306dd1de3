"""What does the gateway add to a bare ``litellm.acompletion``, where it needs LiteLLM to translate?

In one process, on uvloop: the gateway's app and a bare call, in turns, both against this folder's
upstream on another core; an answer, and a stream, whose events come ten in a write, or one in a
while. The ratio is what counts: LiteLLM's proxy is compared in ``gateway``.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec

from benchmarks import figures, load, options, processes, results
from benchmarks.processes import CORE, Upstream
from benchmarks.rigs import LITELLM_ENVIRON, base_of
from llmgw.apps import bench, bench_layers, bench_report, gateway
from llmgw.apps.bench import Cost, cost_of, slopes_of
from llmgw.apps.bench_drive import Request, as_served
from llmgw.apps.settings import DeploymentSettings, Model
from llmgw.asgi import BODY, START, ASGIApp, Receive, Scope, Send
from llmgw.providers.gateway import default_providers

Knobs = Mapping[str, float]

ROUNDS, REQUESTS = 15, 40
SHORT, LONG = 10, 110  # events of a stream
TOGETHER: Knobs = {"together": 10, "delay_ms": 0}
ALONE: Knobs = {"together": 1, "delay_ms": 2}  # more than an event takes, so that none catches up
REACH = 1.1  # times the bare call; issue 4


@attrs.frozen
class Bare:
    """An app that asks LiteLLM, takes all it gives, and answers without looking at it."""

    base: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        import litellm

        call: dict[str, Any] = msgspec.json.decode((await receive())["body"])
        call["model"] = "openai/m"
        answer: Any = await litellm.acompletion(**call, api_base=self.base, api_key="sk-bench")
        if call.get("stream"):
            async for _ in answer:
                pass
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b"{}"})


def ours(base: str) -> ASGIApp:
    """The gateway, with one deployment that goes by LiteLLM."""
    place = DeploymentSettings(model="openai/m", api_base=base, via="litellm")
    models = [Model(name=bench_layers.MODEL, deployments=[place])]
    settings = attrs.evolve(bench_layers.settings_of(), models=models)
    return gateway.build(settings, {}, default_providers())


@attrs.define
class Pairs:
    """Microseconds of the bare call and of ours, round by round."""

    request: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    short: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    long: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    alone: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])


async def measure(upstream: Upstream, rounds: int, requests: int) -> Pairs:
    """All kinds in turns; the first round warms up."""
    base = base_of(upstream.port)
    apps = Bare(base), ours(base)
    found = Pairs()
    streamed = bench_layers.STREAM
    few = max(2, requests // 4)
    kinds: list[tuple[list[tuple[float, float]], Request, int, Knobs, int]] = [
        (found.request, bench_layers.WHOLE, SHORT, TOGETHER, requests),
        (found.short, streamed, SHORT, TOGETHER, requests),
        (found.long, streamed, LONG, TOGETHER, few),
        (found.alone, streamed, LONG, ALONE, few),
    ]
    async with as_served():
        for number in range(rounds + 1):
            for seen, request, events, knobs, times in kinds:
                await load.tell(upstream.port, events=events, **knobs)
                pair = await bench.pair(*apps, request, times, turned=number % 2 == 1)
                if number:
                    seen.append(pair)
    return found


def row_of(name: str, pairs: bench.Pairs) -> dict[str, Any]:
    """A row: what a bare call takes, how many times that ours takes, and what ours adds."""
    ratios = [after / before for before, after in pairs]
    return {
        "name": name,
        "bare_us": round(statistics.median(before for before, _ in pairs), 1),
        "ratio": figures.summary(ratios, 3),
        "added": attrs.asdict(cost_of(pairs)),
    }


def main() -> None:
    """Measure, keep the figures."""
    given = options.read()
    os.environ.update(LITELLM_ENVIRON)
    processes.prepare()
    with tempfile.TemporaryDirectory() as name, processes.upstream(Path(name)) as upstream:
        os.sched_setaffinity(0, {CORE})
        rounds, requests = given.pick(ROUNDS, 5), given.pick(REQUESTS, 4)
        found = load.run(measure(upstream, rounds, requests))
    slopes = slopes_of(found.short, found.long, LONG - SHORT)
    rows = [
        row_of("an answer", found.request),
        row_of(f"a stream of {LONG} events", found.long),
        row_of("an event of a stream", slopes),
        row_of(f"a stream of {LONG} events, one at a time", found.alone),
    ]
    for row in rows:
        added, times = bench_report.shown(Cost(**row["added"])), row["ratio"]["median"]
        print(f"{row['name']}: bare {row['bare_us']:,.1f} µs, ours {times:.2f} times: {added}")
    results.write("litellm", {"reach": REACH, "rows": rows}, given)


if __name__ == "__main__":
    main()
