"""Routing: in which order the deployments of a model are asked.

A strategy gives the whole order at once: the first is asked, the others are what is left if it
fails. What strategies know of a deployment is its Load, in this process alone.

Source   weighted order: P. Efraimidis and P. Spirakis, "Weighted random sampling with a
         reservoir", 2006. Peak EWMA and the power of two choices: Finagle's "Aperture and P2C"
         documentation; M. Mitzenmacher, 2001.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from llmgw.exchange import Deployment

DECAY = 10.0  # seconds in which an old latency loses 63 % of its weight; Finagle's default
UNKNOWN = 0.0  # seconds; a deployment that was never asked is worth a try


@attrs.define
class Load:
    """What one deployment is doing."""

    running: int = 0  # requests under way
    latency: float = UNKNOWN  # seconds to the first content: peak EWMA
    at: float = 0.0  # when it was last observed

    def observe(self, seconds: float, now: float) -> None:
        """A latency was seen: a peak counts at once, what is lower with time."""
        above = self.latency - seconds
        if above > 0:
            seconds += above * math.exp((self.at - now) / DECAY)
        self.latency, self.at = seconds, now

    def cost(self, now: float) -> float:
        """What asking it costs: latency, faded with age, times how many would wait."""
        return self.latency * math.exp(-(now - self.at) / DECAY) * (self.running + 1)


@attrs.frozen
class Candidate:
    """A deployment with its load; by ``id`` its health is known, to other processes too.

    ``limit_wait``: when its answer says to come back within so many seconds, that is waited for
    before another deployment is asked.
    """

    deployment: Deployment
    id: str
    load: Load = attrs.field(factory=Load)
    limit_wait: float = attrs.field(default=0.0, kw_only=True)


Strategy = Callable[[Sequence[Candidate], random.Random, float], list[Candidate]]


def in_order(candidates: Sequence[Candidate], dice: random.Random, now: float) -> list[Candidate]:
    """As the config lists them."""
    return list(candidates)


def weighted(candidates: Sequence[Candidate], dice: random.Random, now: float) -> list[Candidate]:
    """At random, the first by its weight, then the next by its weight among the rest."""
    return sorted(candidates, key=lambda one: -(dice.random() ** (1 / one.deployment.weight)))


def least_busy(candidates: Sequence[Candidate], dice: random.Random, now: float) -> list[Candidate]:
    """By requests under way for its weight; among equals at random."""

    def busy(one: Candidate) -> tuple[float, float]:
        return (one.load.running + 1) / one.deployment.weight, dice.random()

    return sorted(candidates, key=busy)


def least_latency(
    candidates: Sequence[Candidate], dice: random.Random, now: float
) -> list[Candidate]:
    """The better of two at random first: all requests on the best would make it the worst."""
    if len(candidates) < 2:
        return list(candidates)
    costs = {id(one): (one.load.cost(now), dice.random()) for one in candidates}
    first = min(dice.sample(candidates, 2), key=lambda one: costs[id(one)])
    rest = [one for one in candidates if one is not first]
    return [first, *sorted(rest, key=lambda one: costs[id(one)])]


STRATEGIES: Mapping[str, Strategy] = {
    "order": in_order,
    "weighted": weighted,
    "least_busy": least_busy,
    "least_latency": least_latency,
}


@attrs.frozen
class Group:
    """Deployments that serve one model, and the groups to ask when all of them fail."""

    candidates: Sequence[Candidate]
    strategy: str = "order"
    fallbacks: Sequence[str] = ()


def order_of(
    groups: Mapping[str, Group],
    name: str,
    dice: random.Random | None = None,
    now: float | None = None,
) -> list[Candidate]:
    """Each deployment that may answer for ``name``, once: its own group's, then the others'."""
    only = groups[name]
    if only.strategy == "order" and not only.fallbacks:
        return list(only.candidates)  # a group holds each once
    dice, now = dice or _dice, time.monotonic() if now is None else now
    found: dict[str, Candidate] = {}
    for group in (name, *groups[name].fallbacks):
        if group in groups:
            one = groups[group]
            for candidate in STRATEGIES[one.strategy](one.candidates, dice, now):
                found.setdefault(candidate.id, candidate)
    return list(found.values())


_dice = random.Random()
if hasattr(os, "register_at_fork"):  # not on Windows; else forked workers would choose alike
    os.register_at_fork(after_in_child=_dice.seed)
