"""Cooldown: leave a deployment alone while it fails or is limited, and find out when it is back.

Two states of a deployment, which do not depend on each other:

- *limited*: its answer said when to come back (Retry-After). It is left alone until then.
- *open*: within ``window_s`` at least ``failures`` requests failed, and they were at least the
  share ``failure_rate`` of all. It is left alone for ``for_s``, then one request probes it.

One request counts once, however often it was repeated. State is behind a protocol: MemoryCooldown
is this process's own. The methods are async so that a store on a server can take its place;
``healthy`` is not, and saves most requests every wait.

Source   M. Nygard, "Release It!", "Circuit Breaker". The rule and its numbers were chosen by
         simulation: docs/decisions/0013.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs
from attrs.validators import ge, gt, le

FAILURES, RATE, WINDOW = 3, 0.5, 30.0  # requests; share of all requests; seconds
FOR = 10.0  # seconds an open deployment is left alone
LIMIT = 10_000  # deployments that are remembered: clients may make up names; chosen
PROBE = 60.0  # seconds after which a probe without a result counts as lost; chosen
SLICES = 10  # parts in which the window moves; chosen


@attrs.frozen
class Admission:
    """Whether a deployment may be asked: ``wait`` 0 means yes, else seconds until it may.

    ``probe``: this request finds out whether the deployment is back, and must tell its result.
    ``limited``: the wait is the upstream's own word.
    """

    wait: float = 0.0
    probe: bool = False
    limited: bool = False


ADMITTED = Admission()


class Cooldown(Protocol):
    """What is known of the health of deployments, by name."""

    def healthy(self, name: str) -> bool:
        """Whether it is known at once that ``admit`` would admit, and ``success`` change nothing.

        A store that cannot know without a wait returns False.
        """
        ...

    async def admit(self, name: str, *, last: bool = False) -> Admission:
        """Whether the deployment may be asked now.

        ``last``: there is no other, so an open one is admitted, and a limited one is probed now and
        then. Whoever gets a probe calls ``success``, ``failure``, ``limit`` or ``release``.
        """
        ...

    async def success(self, name: str, *, probe: bool = False) -> None:
        """A request was answered. Only a ``probe`` ends a cooldown: others may be old news."""
        ...

    async def failure(self, name: str, *, begun: bool = False) -> None:
        """A request failed. ``begun``: its success was reported, and is taken back."""
        ...

    async def limit(self, name: str, seconds: float) -> None:
        """An answer said to come back in so many seconds."""
        ...

    async def release(self, name: str) -> None:
        """A probe ended without a result: the next request may probe."""
        ...


@attrs.define
class Window:
    """How many requests succeeded and failed lately."""

    seconds: float
    slices: deque[list[int]] = attrs.field(factory=deque[list[int]])  # number, succeeded, failed

    def add(self, now: float, succeeded: int, failed: int) -> None:
        """Count requests; negative numbers take back."""
        number = int(now * SLICES / self.seconds)
        if not self.slices or self.slices[-1][0] != number:
            self.slices.append([number, 0, 0])
        self.slices[-1][1] += succeeded
        self.slices[-1][2] += failed

    def counts(self, now: float) -> tuple[int, int]:
        """The requests that succeeded and failed within the window."""
        oldest = int(now * SLICES / self.seconds) - SLICES
        while self.slices and self.slices[0][0] <= oldest:
            self.slices.popleft()
        return sum(one[1] for one in self.slices), sum(one[2] for one in self.slices)


@attrs.define
class Circuit:
    """One deployment's state; it exists from its first failure until the window is clean."""

    window: Window
    open_until: float = 0.0  # 0: closed
    limited_until: float = 0.0
    probed_at: float | None = None  # a probe is under way since


@attrs.define(eq=False)
class MemoryCooldown:
    """The state of this process."""

    failures: int = attrs.field(default=FAILURES, validator=ge(1))
    for_s: float = attrs.field(default=FOR, validator=gt(0))
    failure_rate: float = attrs.field(default=RATE, validator=[gt(0), le(1)])
    window_s: float = attrs.field(default=WINDOW, validator=gt(0))
    clock: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    _circuits: dict[str, Circuit] = attrs.field(factory=dict[str, Circuit], init=False)

    def healthy(self, name: str) -> bool:
        """See Cooldown."""
        return name not in self._circuits

    async def admit(self, name: str, *, last: bool = False) -> Admission:
        """See Cooldown."""
        circuit = self._circuits.get(name)
        if circuit is None:
            return ADMITTED
        now = self.clock()
        if now < circuit.limited_until:
            if last and self._probe(circuit, now, self.for_s):
                return Admission(probe=True)
            return Admission(circuit.limited_until - now, limited=True)
        if not circuit.open_until:
            return ADMITTED
        if now < circuit.open_until and not last:
            return Admission(circuit.open_until - now)
        if self._probe(circuit, now, PROBE):
            return Admission(probe=True)
        return ADMITTED if last else Admission(self.for_s)

    async def success(self, name: str, *, probe: bool = False) -> None:
        """See Cooldown."""
        circuit = self._circuits.get(name)
        if circuit is None:
            return
        now = self.clock()
        if probe:
            del self._circuits[name]
            return
        circuit.window.add(now, 1, 0)
        clean = circuit.window.counts(now)[1] <= 0
        if clean and not circuit.open_until and now >= circuit.limited_until:
            del self._circuits[name]

    async def failure(self, name: str, *, begun: bool = False) -> None:
        """See Cooldown."""
        circuit, now = self._circuit(name), self.clock()
        circuit.window.add(now, -1 if begun else 0, 1)
        succeeded, failed = circuit.window.counts(now)
        often = failed >= self.failures and failed >= self.failure_rate * (succeeded + failed)
        if often or circuit.open_until:
            circuit.open_until = now + self.for_s
        circuit.probed_at = None

    async def limit(self, name: str, seconds: float) -> None:
        """See Cooldown."""
        circuit, now = self._circuit(name), self.clock()
        circuit.limited_until = max(circuit.limited_until, now + seconds)
        circuit.probed_at = now

    async def release(self, name: str) -> None:
        """See Cooldown."""
        if circuit := self._circuits.get(name):
            circuit.probed_at = None

    def _circuit(self, name: str) -> Circuit:
        circuit = self._circuits.setdefault(name, Circuit(Window(self.window_s)))
        if len(self._circuits) > LIMIT:
            del self._circuits[next(iter(self._circuits))]  # the oldest
        return circuit

    @staticmethod
    def _probe(circuit: Circuit, now: float, lost: float) -> bool:
        """Whether this request becomes the probe; the one before it is lost after so long."""
        if circuit.probed_at is not None and now < circuit.probed_at + lost:
            return False
        circuit.probed_at = now
        return True
