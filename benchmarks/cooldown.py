"""When should a deployment be left alone? Four rules, in three situations, by simulation.

A deployment and a fallback that always answers; five requests a second, for ten minutes of a clock
that is not waited for. A request has three attempts at the deployment, a probe one. The figures go
to ``results/cooldown.json``, the chart to docs/decisions/0013.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import anyio
import attrs
import msgspec

from benchmarks.charts import curves
from llmgw.cooldown import MemoryCooldown

HERE = Path(__file__).parent
RESULT = HERE / "results" / "cooldown.json"
CHART = HERE.parent / "docs" / "decisions" / "0013-when-a-deployment-cools.svg"
SECONDS, PER_SECOND, ATTEMPTS = 600, 5, 3


class Rule(Protocol):
    """When the deployment is left alone."""

    async def attempts(self, now: float) -> int:
        """How many attempts a request has at the deployment; 0: it is left alone."""
        ...

    async def result(self, now: float, failed: int, *, answered: bool) -> None:
        """How a request ended there: so many attempts failed, the last one did not or did."""
        ...


@attrs.define
class Never:
    """There is no cooldown."""

    async def attempts(self, now: float) -> int:
        """See Rule."""
        return ATTEMPTS

    async def result(self, now: float, failed: int, *, answered: bool) -> None:
        """See Rule."""


@attrs.define
class InARow:
    """Three failures in a row, counted by attempts or by requests; ten seconds, then a probe."""

    by_attempts: bool
    failures: int = 0
    until: float = 0.0

    async def attempts(self, now: float) -> int:
        """See Rule."""
        if not self.until:
            return ATTEMPTS
        return 0 if now < self.until else 1

    async def result(self, now: float, failed: int, *, answered: bool) -> None:
        """See Rule."""
        if answered:
            self.failures, self.until = 0, 0.0
            return
        self.failures += failed if self.by_attempts else 1
        if self.failures >= 3:
            self.until = now + 10


@attrs.define
class ByShare:
    """The rule that was chosen: MemoryCooldown as it is."""

    now: float = 0.0
    probing: bool = False
    store: MemoryCooldown = attrs.field(
        default=attrs.Factory(lambda self: MemoryCooldown(clock=lambda: self.now), takes_self=True)
    )

    async def attempts(self, now: float) -> int:
        """See Rule."""
        self.now = now
        found = await self.store.admit("a")
        self.probing = found.probe
        return 0 if found.wait else 1 if found.probe else ATTEMPTS

    async def result(self, now: float, failed: int, *, answered: bool) -> None:
        """See Rule."""
        if answered:
            await self.store.success("a", probe=self.probing)
        else:
            await self.store.failure("a")


RULES: dict[str, Callable[[], Rule]] = {
    "half of the requests in 30 s": ByShare,
    "no cooldown": Never,
    "three attempts in a row": lambda: InARow(True),
    "three requests in a row": lambda: InARow(False),
}
Fails = Callable[[float, bool, random.Random], bool]  # the time, whether it is the bad client


@attrs.frozen
class Outcome:
    """What became of the requests, in percent."""

    moved: float  # of the good clients' requests: answered by the fallback
    wasted: float  # attempts that failed, for 100 requests
    back_after: float | None  # seconds from the recovery to the first answer


async def simulate(rule: Rule, fails: Fails, recovery: float, bad_share: float = 0.0) -> Outcome:
    """Ten minutes of requests."""
    dice = random.Random(7)
    good = moved = wasted = total = 0
    back: float | None = None
    now = 0.0
    while now < SECONDS:
        now += dice.expovariate(PER_SECOND)
        bad = dice.random() < bad_share
        attempts, failed, answered = await rule.attempts(now), 0, False
        while failed < attempts and not answered:
            answered = not fails(now, bad, dice)
            failed += not answered
        if attempts:
            await rule.result(now, failed, answered=answered)
        if answered and now >= recovery and back is None:
            back = now - recovery
        total, wasted = total + 1, wasted + failed
        good, moved = good + (not bad), moved + (not bad and not answered)
    return Outcome(100 * moved / good, 100 * wasted / total, back)


def at_random(share: float) -> Fails:
    """Each attempt fails by chance."""
    return lambda now, bad, dice: dice.random() < share


def for_one_client(now: float, bad: bool, dice: random.Random) -> bool:
    """All that one client sends fails, as a picture for a model that knows none."""
    return bad


def dead_for_a_minute(now: float, bad: bool, dice: random.Random) -> bool:
    """It dies and recovers."""
    return 60 <= now < 120


async def measure() -> dict[str, Any]:
    """All situations by all rules."""
    shares = range(0, 101, 5)
    found: dict[str, Any] = {}
    for name, rule in RULES.items():
        random_shares = {
            share: (await simulate(rule(), at_random(share / 100), 0)) for share in shares
        }
        client = await simulate(rule(), for_one_client, 0, bad_share=0.2)
        dead = await simulate(rule(), dead_for_a_minute, 120)
        found[name] = {
            "at random": {share: attrs.asdict(one) for share, one in random_shares.items()},
            "one client": attrs.asdict(client),
            "dead for a minute": attrs.asdict(dead),
        }
    return found


def main() -> None:
    """Simulate, print a table, write the figures and the chart."""
    found = anyio.run(measure)
    print(f"{'rule':32}{'40 % at random':>16}{'one bad client':>16}{'dead: wasted':>14}{'back':>8}")
    for name, one in found.items():
        at_40, client, dead = one["at random"][40], one["one client"], one["dead for a minute"]
        print(
            f"{name:32}{at_40['moved']:>14.1f} %{client['moved']:>14.1f} %"
            f"{dead['wasted']:>14.1f}{dead['back_after']:>6.1f} s"
        )
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    lines = [
        (name, [(float(share), entry["moved"]) for share, entry in one["at random"].items()])
        for name, one in found.items()
    ]
    title = "Requests that a failing deployment does not answer"
    CHART.write_text(curves(title, "attempts that fail at random", lines))


if __name__ == "__main__":
    main()
