"""Cooldown: a deployment that keeps failing is left alone for a while, then tried by one request.

    CLOSED --failures in a row--> OPEN --for_s later--> HALF OPEN --success--> CLOSED
                                    ^---------------failure---------|

State is behind a protocol: in memory it is this process's own. What asks or tells is awaited, so
that a store on a server can stand in its place; ``healthy`` saves most requests both waits.

Source   M. Nygard, "Release It!", "Circuit Breaker". FAILURES and FOR are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import attrs
from attrs.validators import ge, gt

FAILURES, FOR = 3, 10.0  # in a row; seconds
LIMIT = 10_000  # deployments that are remembered: clients may make up names; chosen
PROBE = 60.0  # seconds after which a probe that told nothing is taken for lost; chosen


@attrs.frozen
class Admission:
    """Whether a deployment may be asked: ``wait`` 0 means yes, else seconds until it may.

    ``probe``: it is half open, and whoever got this is the one request that tries it.
    """

    wait: float = 0.0
    probe: bool = False


OPEN = Admission()


class Cooldown(Protocol):
    """What is known of the health of deployments, by name."""

    def healthy(self, name: str) -> bool:
        """Whether it is known at once that ``admit`` would say OPEN, and ``success`` be no news.

        A store that cannot know without a wait says False.
        """
        ...

    async def admit(self, name: str) -> Admission:
        """Whether it may be asked now. Who gets a probe must tell success, failure or release."""
        ...

    async def success(self, name: str, *, probe: bool = False) -> None:
        """It answered; only a ``probe`` closes what is open: the others may be old news."""
        ...

    async def failure(self, name: str, retry_after: float | None = None, count: int = 1) -> None:
        """It failed ``count`` times; ``retry_after``: it said itself how long to leave it alone."""
        ...

    async def release(self, name: str) -> None:
        """A probe was given up before its answer: the next request may probe."""
        ...


@attrs.define
class Circuit:
    """One deployment's state."""

    failures: int = 0  # in a row
    until: float = 0.0  # open until then; 0: closed
    probed_at: float | None = None  # half open: a probe is under way since


@attrs.define(eq=False)
class MemoryCooldown:
    """The state of this process."""

    failures: int = attrs.field(default=FAILURES, validator=ge(1))
    for_s: float = attrs.field(default=FOR, validator=gt(0))
    clock: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    _circuits: dict[str, Circuit] = attrs.field(factory=dict[str, Circuit], init=False)

    def healthy(self, name: str) -> bool:
        """See Cooldown."""
        return name not in self._circuits

    async def admit(self, name: str) -> Admission:
        """See Cooldown."""
        circuit = self._circuits.get(name)
        if circuit is None or not circuit.until:
            return OPEN
        now = self.clock()
        if now < circuit.until:
            return Admission(circuit.until - now)
        if circuit.probed_at is not None and now < circuit.probed_at + PROBE:
            return Admission(self.for_s)
        circuit.probed_at = now
        return Admission(probe=True)

    async def success(self, name: str, *, probe: bool = False) -> None:
        """See Cooldown."""
        circuit = self._circuits.get(name)
        if circuit is not None and (probe or not circuit.until):
            del self._circuits[name]

    async def failure(self, name: str, retry_after: float | None = None, count: int = 1) -> None:
        """See Cooldown."""
        circuit = self._circuits.setdefault(name, Circuit())
        if len(self._circuits) > LIMIT:
            del self._circuits[next(iter(self._circuits))]  # the oldest
        circuit.failures += count
        circuit.probed_at = None
        if retry_after is not None or circuit.failures >= self.failures:
            wait = self.for_s if retry_after is None else retry_after
            circuit.until = max(circuit.until, self.clock() + wait)

    async def release(self, name: str) -> None:
        """See Cooldown."""
        if circuit := self._circuits.get(name):
            circuit.probed_at = None
