"""Bench: what something costs, in microseconds of CPU a request and a streamed message.

In one process, without sockets: an app is driven without the thing and with it, in turns (A B B A),
round after round, so that whatever the machine does meanwhile meets both. Shown is the median of
the differences; one that its spread hides is refused.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

import attrs

from llmgw.apps.bench_drive import Request, as_served, drive
from llmgw.asgi import ASGIApp

ROUNDS, REQUESTS = 15, 300  # chosen: a spread of some percent, within a minute
FEWER = 3  # a stream is driven so many times less often: it has a hundred messages
ENOUGH = 5  # rounds, to speak of a middle half
FLOOR = 0.05  # microseconds; what is surely below is said to be so; chosen

Wrap = Callable[[ASGIApp], ASGIApp]
Progress = Callable[[int, int], None]  # rounds done, of how many


@attrs.frozen
class Subject:
    """An app that is driven and what it is asked: for an answer, a short and a long stream.

    The two streams differ only in so many ``messages``; 0: it does not stream.
    """

    whole: tuple[ASGIApp, Request]
    short: tuple[ASGIApp, Request]
    long: tuple[ASGIApp, Request]
    messages: int


@attrs.frozen
class Comparison:
    """Two ways to wrap an app: without a layer and with it, alone or in the stack."""

    name: str
    kind: Literal["alone", "stack"]
    without: Wrap
    within: Wrap


@attrs.frozen
class Cost:
    """What something adds, in microseconds: the median; None where the spread hides it.

    ``spread`` is half of the middle half's width; ``ratio`` compares with it to without it.
    ``small`` says that it is surely below FLOOR.
    """

    us: float | None
    spread: float
    ratio: float | None = None
    small: bool = False


@attrs.frozen
class Costs:
    """What a layer adds to a request, and to a streamed message (None: the app does not stream)."""

    request: Cost
    message: Cost | None


@attrs.frozen
class Row:
    """A layer: around the app alone, and in the stack (None where it is the stack)."""

    name: str
    alone: Costs
    stack: Costs | None


Pairs = Sequence[tuple[float, float]]  # without and within, round by round


def cost_of(pairs: Pairs) -> Cost:
    """The cost in pairs of measurements; of few, the spread is their whole width."""
    found = [after - before for before, after in pairs]
    low, middle, high = statistics.quantiles(found, n=4)
    spread = (high - low) / 2 if len(found) >= ENOUGH else max(found) - min(found)
    if spread > abs(middle) / 2:
        return Cost(None, round(spread, 3), small=abs(middle) + spread < FLOOR)
    ratios = [after / before for before, after in pairs if before > 0]
    ratio = round(statistics.median(ratios), 2) if len(ratios) == len(pairs) else None
    return Cost(round(middle, 3), round(spread, 3), ratio)


def slopes_of(short: Pairs, long: Pairs, messages: int) -> Pairs:
    """What a message takes, by a short and a long stream: no cost of a request is in it."""
    return [
        ((long[n][0] - short[n][0]) / messages, (long[n][1] - short[n][1]) / messages)
        for n in range(len(short))
    ]


async def turn(app: ASGIApp, request: Request, times: int) -> float:
    """Microseconds of CPU for so many requests, and for finding the cycles that they left."""
    gc.collect()
    began = time.process_time_ns()
    await drive(app, request, times)
    gc.collect(0)
    return (time.process_time_ns() - began) / 1000


async def pair(
    without: ASGIApp, within: ASGIApp, request: Request, times: int, *, turned: bool = False
) -> tuple[float, float]:
    """Microseconds a request of two apps, in the order A B B A, or B A A B."""
    half = max(1, times // 2)
    if turned:
        after, before = await pair(within, without, request, times)
        return before, after
    first = await turn(without, request, half)
    second = await turn(within, request, half) + await turn(within, request, half)
    return (first + await turn(without, request, half)) / half / 2, second / half / 2


@attrs.frozen
class Series:
    """The measurements of one comparison, round by round."""

    comparison: Comparison
    subject: Subject
    whole: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    short: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    long: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])

    async def run(self, number: int, requests: int) -> None:
        """One round; number 0 warms up."""
        few = max(2, requests // FEWER)
        kinds = [(self.whole, self.subject.whole, requests)]
        if self.subject.messages:
            kinds += [(self.short, self.subject.short, few), (self.long, self.subject.long, few)]
        for found, (app, request), times in kinds:
            apps = self.comparison.without(app), self.comparison.within(app)
            result = await pair(*apps, request, times, turned=number % 2 == 1)
            if number:
                found.append(result)

    @property
    def costs(self) -> Costs:
        """What was found."""
        messages = self.subject.messages
        slopes = slopes_of(self.short, self.long, messages) if messages else None
        return Costs(cost_of(self.whole), None if slopes is None else cost_of(slopes))


async def compare(
    comparisons: Sequence[Comparison],
    subject: Subject,
    rounds: int,
    requests: int,
    progress: Progress,
) -> list[Row]:
    """All comparisons, in turns; a row for each name, in their order."""
    every = [Series(comparison, subject) for comparison in comparisons]
    async with as_served():
        for number in range(rounds + 1):
            for one in every:
                await one.run(number, requests)
            progress(number, rounds)
    found = {(one.comparison.name, one.comparison.kind): one.costs for one in every}
    names = dict.fromkeys(comparison.name for comparison in comparisons)
    return [Row(name, found[name, "alone"], found.get((name, "stack"))) for name in names]
