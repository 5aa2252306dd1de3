"""How many Python functions does a request call, and a streamed message? Counts, not times.

A count is the same on a busy machine, so CI can hold it: ``tests/test_counts.py`` compares with
``results/counts.json``, by Python version. ``python -m benchmarks.counts`` records a new baseline.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import msgspec

from llmgw.apps import bench
from llmgw.asgi import ASGIApp

PATH = Path(__file__).parent / "results" / "counts.json"
REQUESTS = 20
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


async def calls(app: ASGIApp) -> float:
    """Python function calls a request, the driver's own included."""
    await bench.drive(app, 3)  # warm up: labels, caches
    count = 0

    def note(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await bench.drive(app, REQUESTS)
    finally:
        sys.setprofile(before)
    return count / REQUESTS


async def measure() -> dict[str, float]:
    """What all layers add, to a request and to a message."""
    whole = await calls(bench.variants(bench.whole)["all"]) - await calls(bench.whole)
    streamed = await calls(bench.variants(bench.streamed)["all"]) - await calls(bench.streamed)
    return {
        "calls a request": round(whole, 1),
        "calls a message": round((streamed - whole) / bench.MESSAGES, 2),
    }


def recorded() -> dict[str, dict[str, float]]:
    """The baselines, by Python version."""
    found: dict[str, dict[str, float]] = msgspec.json.decode(PATH.read_bytes())
    return found


def main() -> None:
    """Record this version's baseline."""
    known = recorded() if PATH.exists() else {}
    known[VERSION] = anyio.run(measure)
    PATH.write_bytes(msgspec.json.format(msgspec.json.encode(known)) + b"\n")
    print(VERSION, known[VERSION])


if __name__ == "__main__":
    main()
