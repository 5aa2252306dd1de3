"""The rule by which a deployment cools does what the decision says."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks import charts, cooldown
from benchmarks.cooldown import ByShare, InARow, Never, at_random, dead_for_a_minute, for_one_client


async def test_one_client_whose_requests_fail_hardly_moves_the_others() -> None:
    """Counted by attempts, it moved nearly all of them."""
    ours = await cooldown.simulate(ByShare(), for_one_client, 0, bad_share=0.2)
    before = await cooldown.simulate(InARow(True), for_one_client, 0, bad_share=0.2)

    assert ours.moved < 5
    assert before.moved > 50


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
async def test_what_fails_now_and_then_does_not_cool(share: float) -> None:
    """It is as if there were no cooldown."""
    ours = await cooldown.simulate(ByShare(), at_random(share), 0)
    never = await cooldown.simulate(Never(), at_random(share), 0)

    assert ours.moved == pytest.approx(never.moved, abs=1)


async def test_what_is_dead_is_left_alone_and_found_again() -> None:
    """With a fiftieth of the attempts."""
    ours = await cooldown.simulate(ByShare(), dead_for_a_minute, 120)
    never = await cooldown.simulate(Never(), dead_for_a_minute, 120)

    assert ours.wasted < never.wasted / 50
    assert ours.back_after is not None
    assert ours.back_after <= 11


def test_curves_are_a_picture() -> None:
    """A line for each series."""
    drawn = charts.curves("a < b", "unit", [("one", [(0, 0), (100, 50)]), ("two", [(0, 100)])])

    assert (
        len(list(ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    )
