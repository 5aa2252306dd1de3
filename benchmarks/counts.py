"""How many Python functions does a request call, what does it hold, what does it leave behind?

Counts are the same on a busy machine, so CI can hold them: ``tests/test_counts.py`` compares with
``results/counts.json``, by Python version. ``python -m benchmarks.counts`` records a new baseline.

Of all layers around an app that answers at once, less what the app alone takes; and of the whole
gateway with the offline model. *Calls* are of Python functions. *Blocks* are allocations that live
while a request is at the model; *peak* is the most bytes that are allocated at once for it, or for
a message on its way. *Left* are objects in cycles that only the collector frees, *kept* are blocks
that even it does not.
"""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import attrs
import msgspec

from benchmarks.counting import Counts, MarkedApp, MarkedProvider, count
from llmgw.apps import bench_layers, gateway
from llmgw.apps.bench_drive import Request, silent_logs
from llmgw.apps.settings import DeploymentSettings, Model
from llmgw.providers.echo import EchoProvider
from llmgw.stack import stack

PATH = Path(__file__).parent / "results" / "counts.json"
MESSAGES = bench_layers.MESSAGES
SLACK = 0.1  # of a recorded figure: good code may cost a little more, a habit may not
FEW = 16  # bytes: two pointers, where nothing was recorded; chosen
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def told(name: str, whole: Counts, short: Counts, long: Counts, messages: int) -> dict[str, float]:
    """The figures that are held, by name."""
    return {
        f"{name}: calls a request": round(whole.calls, 1),
        f"{name}: calls a message": round((long.calls - short.calls) / messages, 2),
        f"{name}: blocks a request": whole.blocks,
        f"{name}: peak bytes a request": whole.peak,
        f"{name}: peak bytes a message": long.message_peak,
        f"{name}: objects left a request": round(whole.left, 1),
        f"{name}: objects left a message": round((long.left - short.left) / messages, 2),
        f"{name}: blocks kept a request": round(whole.kept),
    }


async def layers() -> dict[str, float]:
    """What all layers add around an app that answers at once."""
    every, subject = bench_layers.layers(), bench_layers.SUBJECT
    found: list[Counts] = []
    for app, request in (subject.whole, subject.short, subject.long):
        marked = MarkedApp(app)
        bare = await count(marked, request)
        full = await count(stack(every, marked), request)
        pairs = zip(attrs.astuple(bare), attrs.astuple(full), strict=True)
        found.append(Counts(*(after - before for before, after in pairs)))
    return told("layers", *found, messages=subject.messages)


def asking(model: str, **more: object) -> Request:
    """A request of 1.7 KB for echo, which says the last message again: one word."""
    messages = [*bench_layers.CALL["messages"], {"role": "user", "content": " word"}]
    call = {"model": model, "messages": messages, **more}
    return Request(headers=bench_layers.HEADERS, body=msgspec.json.encode(call))


def echoes(chunks: int) -> Model:
    """A model that says so many words, named by how many."""
    place = DeploymentSettings(model="echo", options={"chunks": chunks})
    return Model(name=f"m{chunks}", deployments=[place])


async def whole_gateway() -> dict[str, float]:
    """What a request takes in the gateway, the driver and the offline model included."""
    models = [echoes(number) for number in (1, 10, 10 + MESSAGES)]
    settings = attrs.evolve(bench_layers.settings_of(), models=models)
    app = gateway.build(settings, {}, {"echo": MarkedProvider(EchoProvider())})
    requests = [asking("m1"), asking("m10", stream=True)]
    requests += [asking(models[-1].name, stream=True)]
    found = [await count(app, request) for request in requests]
    return told("gateway", *found, messages=MESSAGES)


async def measure() -> dict[str, float]:
    """All counts, with the collector off."""
    with silent_logs(wait=3600):  # until somebody flushes: when a timer rings is chance
        async with gateway.known_as_asyncio():
            gc.collect()
            gc.freeze()
            gc.disable()
            try:
                return {**await layers(), **await whole_gateway()}
            finally:
                gc.enable()
                gc.unfreeze()


def recorded() -> dict[str, dict[str, float]]:
    """The baselines, by Python version."""
    found: dict[str, dict[str, float]] = msgspec.json.decode(PATH.read_bytes())
    return found


def slack(name: str, recorded: float) -> float:
    """How much more than recorded is allowed: a SLACK, but not one object left, one block kept."""
    if "objects left" in name or "blocks kept" in name:
        return 0
    return max(recorded * SLACK, FEW if "bytes" in name else 0)


def higher(found: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """What has grown beyond its baseline and ``slack``, a line each."""
    return [
        f"{name}: {value:g}, recorded {baseline[name]:g}"
        for name, value in found.items()
        if name in baseline and value > baseline[name] + slack(name, baseline[name])
    ]


def lower(found: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """What has shrunk so much that the baseline should say so, a line each."""
    return [
        f"{name}: {value:g}, recorded {baseline[name]:g}"
        for name, value in found.items()
        if name in baseline and value < baseline[name] * (1 - SLACK)
    ]


def count_apart() -> dict[str, float]:
    """All counts, in a process that has imported nothing else."""
    command = [sys.executable, "-m", "benchmarks.counts", "--print"]
    others = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")}
    environ = {**others, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, cwd=PATH.parents[2], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = msgspec.json.decode(done.stdout)
    return found


def main() -> None:
    """Record this version's baseline."""
    if "--print" in sys.argv:
        return print(msgspec.json.encode(anyio.run(measure)).decode())
    known = recorded() if PATH.exists() else {}
    found = count_apart()
    baseline = known.get(VERSION, {})
    for name, value in found.items():
        print(f"{VERSION}, {name}: {value:g} (recorded: {baseline.get(name, math.nan):g})")
    PATH.write_bytes(msgspec.json.format(msgspec.json.encode({**known, VERSION: found})) + b"\n")
    print("python -m benchmarks.page puts them on the page")


if __name__ == "__main__":
    main()
