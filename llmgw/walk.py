"""Walk: one request's way from deployment to deployment, until one answers.

The order in which deployments are asked, what they told the cooldown, and how long is waited:

1. In the order of the strategy, those that neither cool nor are limited. One that is limited for
   at most its ``limit_wait`` is waited for.
2. The others, as a last resort: first those that cool, then those that are limited. A limited one
   is waited for, if that fits; else it is only asked when the cooldown wants a probe.

So a cooldown changes the order of what is asked, and never leaves a request without an attempt that
it would have had without one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import anyio
import attrs
from msgspec import Struct, field

from llmgw.cooldown import Cooldown, MemoryCooldown
from llmgw.errors import (
    GatewayError,
    InvalidRequestError,
    NotFoundError,
    ProviderUnavailableError,
    RateLimitError,
)
from llmgw.retrying import RETRY_AFTER_MAX, RetryBudget, spread
from llmgw.routing import Candidate


class Turn(Struct, eq=False):
    """One deployment's turn to answer."""

    candidate: Candidate
    at: int  # its place in the order
    left: int  # candidates after it
    probe: bool = False  # the cooldown waits for its result
    told: bool = False  # the cooldown has heard of a success
    began_at: float = field(default_factory=time.monotonic)

    def observe(self) -> None:
        """It answers, or has failed: the time since the turn began is the deployment's latency."""
        now = time.monotonic()
        self.candidate.load.observe(now - self.began_at, now)

    @property
    def single(self) -> bool:
        """Whether one attempt must do: it is a probe, and others may answer instead."""
        return self.probe and self.left > 0


@attrs.frozen
class Waits:
    """How long, and how often, a request may wait for a limited deployment.

    ``longest``: seconds of one wait. ``number``: waits of one request. ``budget``: bounds them over
    all requests, together with retries; None does not.
    """

    longest: float = RETRY_AFTER_MAX
    number: int = 2
    budget: RetryBudget | None = None


class Later(Struct, order=True):
    """A deployment that is asked when all others have failed; those that cool before the limited.

    ``wait``: whole seconds; of those that have about as long to wait the first in order is asked.
    ``asked``: it has told this request itself that it is limited.
    """

    limited: bool
    wait: float
    at: int
    asked: bool = False


class Walk(Struct, eq=False):
    """The turns of one request."""

    candidates: Sequence[Candidate]
    cooldown: Cooldown = field(default_factory=MemoryCooldown)
    waits: Waits = field(default_factory=Waits)
    at: int = 0
    later: list[Later] = []
    waited: float = 0.0  # seconds, over all waits
    waits_made: int = 0
    tried: list[int] = []  # places in the order that have failed
    limited: tuple[float, Candidate] | None = None  # the shortest wait that did not fit

    def healthy(self) -> Turn | None:
        """The next turn, when its deployment is known to be healthy without a wait."""
        candidates, at = self.candidates, self.at
        if at == len(candidates) or not self.cooldown.healthy(candidates[at].id):
            return None
        self.at = at + 1
        return Turn(candidates[at], at, len(candidates) - at - 1)

    async def next(self, remaining: Callable[[], float]) -> Turn | None:
        """The next turn, after the wait that it needs; None when there is none.

        ``remaining()`` is how many seconds the request has left.
        """
        while self.at < len(self.candidates):
            candidate = self.candidates[self.at]
            found = await self.cooldown.admit(candidate.id)
            worth_it = found.limited and found.wait <= candidate.limit_wait
            if worth_it and await self._wait(self.at, found.wait, remaining()):
                continue  # what was told meanwhile counts
            self.at += 1
            if not found.wait:
                return self._turn(self.at - 1, probe=found.probe)
            self.later.append(Later(found.limited, round(found.wait), self.at - 1))
        return await self._last(remaining)

    async def answered(self, turn: Turn) -> None:
        """A turn's deployment has begun to answer."""
        if not turn.told:
            turn.told = True
            await self.cooldown.success(turn.candidate.id, probe=turn.probe)

    async def failed(self, turn: Turn, error: GatewayError) -> None:
        """A turn ended by this error. What is the request's fault, or ours, tells nothing."""
        self.tried.append(turn.at)
        if isinstance(error, InvalidRequestError) or not error.next:
            return
        candidate, wait = turn.candidate, error.retry_after
        begun, turn.told = turn.told, True
        if wait is not None and isinstance(error, RateLimitError | ProviderUnavailableError):
            await self.cooldown.limit(candidate.id, wait)
            if 0 < candidate.limit_wait >= wait:
                self.at = turn.at
            else:
                self.later.append(Later(True, round(wait), turn.at, asked=True))
        else:
            await self.cooldown.failure(candidate.id, begun=begun)
            if turn.single and error.same:
                self.later.append(Later(False, math.inf, turn.at))

    async def release(self, turn: Turn) -> None:
        """A turn ended, perhaps without a result: then the next request may probe."""
        if turn.probe and not turn.told:
            with anyio.CancelScope(shield=True):
                await self.cooldown.release(turn.candidate.id)

    def refusal(self) -> GatewayError:
        """Why no deployment was asked at all."""
        if self.limited is None:
            return NotFoundError("There is no deployment for this model.", param="model")
        wait, candidate = self.limited
        name = candidate.deployment.provider
        text = f"{name} limits the gateway's requests."
        return RateLimitError(text, provider=name, retry_after=wait)

    async def _last(self, remaining: Callable[[], float]) -> Turn | None:
        while self.later:
            entry = min(self.later)
            candidate = self.candidates[entry.at]
            found = await self.cooldown.admit(candidate.id)
            if found.limited and await self._wait(entry.at, found.wait, remaining()):
                entry.limited, entry.asked = False, False
                continue
            self.later.remove(entry)
            if found.wait and not entry.asked:
                found = await self.cooldown.admit(candidate.id, last=True)
            if not found.wait:
                return self._turn(entry.at, probe=found.probe)
            if self.limited is None or found.wait < self.limited[0]:
                self.limited = found.wait, candidate
        return None

    async def _wait(self, at: int, seconds: float, remaining: float) -> bool:
        """Wait for a deployment, if it fits; spread out, or all that wait would come at once.

        Before a repeat the budget is asked. A request that was not sent there yet is none.
        """
        waits, long = self.waits, spread(seconds)
        if self.waits_made >= waits.number or seconds > waits.longest or long >= remaining:
            return False
        if at in self.tried and waits.budget is not None and not waits.budget.withdraw():
            return False
        self.waits_made += 1
        self.waited += long
        await anyio.sleep(long)
        return True

    def _turn(self, at: int, *, probe: bool) -> Turn:
        return Turn(self.candidates[at], at, len(self.candidates) - self.at, probe)
