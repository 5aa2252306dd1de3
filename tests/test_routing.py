"""Routing: in which order the deployments of a model are asked."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llmgw.exchange import Deployment
from llmgw.routing import DECAY, STRATEGIES, Candidate, Group, Load, order_of


def place(name: str, weight: float = 1, **load: float) -> Candidate:
    return Candidate(Deployment(name, "m", weight=weight), name, Load(**load))  # type: ignore[arg-type]


def names(candidates: list[Candidate]) -> list[str]:
    return [one.id for one in candidates]


@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    weights=st.lists(st.floats(0.01, 100), max_size=6),
    seed=st.integers(),
)
def test_every_strategy_gives_all_of_them_once(
    strategy: str, weights: list[float], seed: int
) -> None:
    """None is lost, none stands twice."""
    candidates = [place(str(number), weight) for number, weight in enumerate(weights)]

    found = STRATEGIES[strategy](candidates, random.Random(seed), 1.0)

    assert sorted(names(found)) == sorted(names(candidates))


def test_order_is_the_configs() -> None:
    """The first is the primary."""
    assert names(STRATEGIES["order"]([place("a"), place("b")], random.Random(0), 0)) == ["a", "b"]


def test_weighted_is_in_proportion() -> None:
    """Three times the weight, three times the requests."""
    dice = random.Random(7)
    candidates = [place("a", 3), place("b", 1)]

    firsts = Counter(STRATEGIES["weighted"](candidates, dice, 0)[0].id for _ in range(4000))

    assert 2.5 < firsts["a"] / firsts["b"] < 3.6


def test_least_busy_counts_for_the_weight() -> None:
    """Four on a place of weight four are fewer than two on one of weight one."""
    candidates = [place("a", 1, running=2), place("b", 4, running=4), place("c", 1, running=9)]

    assert names(STRATEGIES["least_busy"](candidates, random.Random(0), 0)) == ["b", "a", "c"]


def test_least_busy_is_fair_among_equals() -> None:
    """Not always the first."""
    dice = random.Random(7)
    candidates = [place("a"), place("b")]

    assert {STRATEGIES["least_busy"](candidates, dice, 0)[0].id for _ in range(50)} == {"a", "b"}


def test_least_latency_takes_the_better_of_two() -> None:
    """The worst of three is never first; the best is so mostly, not always."""
    dice = random.Random(7)
    candidates = [place("a", latency=0.1, at=1), place("b", latency=0.5, at=1)]
    candidates.append(place("c", latency=2, at=1))

    firsts = Counter(STRATEGIES["least_latency"](candidates, dice, 1)[0].id for _ in range(300))

    assert firsts["a"] > firsts["b"] > 0
    assert firsts["c"] == 0


def test_a_place_that_was_never_asked_is_tried() -> None:
    """It costs nothing yet."""
    candidates = [place("a", latency=0.1, at=1), place("new")]

    assert STRATEGIES["least_latency"](candidates, random.Random(0), 1)[0].id == "new"


def test_a_peak_counts_at_once_and_fades() -> None:
    """Slowness is believed immediately, recovery with time."""
    load = Load()
    load.observe(0.1, 1.0)
    load.observe(5.0, 2.0)
    assert load.latency == 5.0

    load.observe(0.1, 3.0)
    assert 4 < load.latency < 5
    assert load.cost(3.0 + 10 * DECAY) < 0.01


def test_who_waits_counts() -> None:
    """A place with requests under way costs as many times more."""
    assert Load(running=3, latency=1, at=1).cost(1) == 4 * Load(latency=1, at=1).cost(1)


def test_fallback_groups_come_after_their_own() -> None:
    """Each deployment once, however many groups it stands in; no group twice."""
    a, b, c = place("a"), place("b"), place("c")
    groups = {
        "fast": Group([a, b], fallbacks=["steady", "fast", "gone"]),
        "steady": Group([b, c], fallbacks=["fast"]),
    }

    assert names(order_of(groups, "fast")) == ["a", "b", "c"]
    assert names(order_of(groups, "steady")) == ["b", "c", "a"]
