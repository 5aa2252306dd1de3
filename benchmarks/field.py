"""The field where gateways are measured: the upstream, the rigs, a turn at one of them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks import load, peers, processes
from benchmarks.client import Round
from benchmarks.options import Options
from benchmarks.processes import Running, Upstream
from benchmarks.rigs import Rig

CONNECTIONS = 64
WARM = 0.3  # seconds of load after a sleep, before it counts; chosen
FULL = 0.95  # of their core: then upstream and load may be what is measured


@attrs.define
class Field:
    """The upstream, a folder, the rigs that are here, and what has failed."""

    upstream: Upstream
    folder: Path
    rigs: list[Rig]
    skipped: list[str]
    failed: dict[str, str] = attrs.field(factory=dict[str, str])

    def attempt(self, what: str, measure: Callable[[], None]) -> None:
        """Measure a thing of one rig; what fails is told and measured no more."""
        if what in self.failed:
            return
        try:
            measure()
        except (RuntimeError, OSError) as exc:
            self.failed[what] = str(exc)[:300]
            print(f"left out from here on: {what}: {exc}")

    def facts(self) -> dict[str, Any]:
        """What belongs to the figures."""
        peers = {rig.name: rig.version for rig in self.rigs if rig.version}
        return {"skipped": self.skipped, "failed": self.failed, "peers": peers}


@contextmanager
def prepared(options: Options) -> Generator[Field]:
    """The upstream, and all rigs that are here and wanted."""
    processes.prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with processes.upstream(folder) as upstream:
            found = peers.everything(upstream.port, folder)
            for line in found.absent:
                print("skipped:", line)
            rigs = [rig for rig in found.rigs if options.wants(rig.name)]
            if not rigs:
                sys.exit(
                    f"nothing to measure; here are: {', '.join(one.name for one in found.rigs)}"
                )
            yield Field(upstream, folder, rigs, found.absent)


@attrs.frozen
class Turn:
    """What one turn at one gateway saw."""

    round: Round
    cpu: float  # seconds of the gateway
    load_cpu: float  # share of their core that load and upstream took


def turn(
    one: Running, upstream: Upstream, request: bytes, connections: int, seconds: float
) -> Turn:
    """Load one gateway, warm it first. Raises RuntimeError when a request failed."""
    with one.awake():
        load.run(load.closed(one.rig.port, request, connections, min(WARM, seconds)))
        before, upstream_before = one.cpu(), upstream.cpu()
        found = load.run(load.closed(one.rig.port, request, connections, seconds))
        spent, upstream_spent = one.cpu() - before, upstream.cpu() - upstream_before
    if found.failures:
        raise RuntimeError(f"{found.failures} failures, the first: {found.failure}")
    return Turn(found, spent, (found.cpu + upstream_spent) / found.took)


def warn(name: str, kind: str, share: float) -> None:
    """Say so when load and upstream may be the bottleneck."""
    if share > FULL:
        print(f"note: {name}, {kind}: load and upstream took {share:.0%} of their core")


def by_cost(rows: list[dict[str, Any]], key: Callable[[Mapping[str, Any]], float | None]) -> None:
    """Sort rows by a figure, those without it last."""
    rows.sort(key=lambda row: (key(row) is None, key(row) or 0.0))
