"""Beside: functions that run beside another until that one ends."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from contextvars import ContextVar
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from msgspec import field

from llmgw.beside import GRACE, Beside
from llmgw.timers import EARLY

var = ContextVar("var", default="nobody's")


class Listener(Beside, kw_only=True):
    """Hears nothing, but notes when it does so."""

    listening: bool = True
    done: bool = False  # main is
    begun: anyio.Event = field(default_factory=anyio.Event)
    began: float = 0.0
    ended: bool = False
    heard: str = ""

    async def listen(self) -> None:
        """Until it is cancelled."""
        self.began, self.heard = time.monotonic(), var.get()
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.ended = True

    def settled(self) -> bool:
        """As the test says."""
        return self.done


async def test_a_function_runs_from_its_time_on() -> None:
    """One that is not due never begins."""
    begun: list[str] = []
    due = anyio.Event()

    async def first() -> None:
        begun.append("first")
        due.set()

    async def second() -> None:
        begun.append("second")

    with anyio.fail_after(60):
        await Beside().run(due.wait, (0.01, first), (60, second))

    assert begun == ["first"]


async def test_what_runs_beside_has_ended_when_main_has() -> None:
    """Cancelled, and cleaned up."""
    begun = anyio.Event()
    ended: list[bool] = []

    async def hang() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.fail_after(60):
        await Beside().run(begun.wait, (0, hang))

    assert ended == [True]


async def test_it_can_end_main() -> None:
    """And nothing is raised."""
    with anyio.fail_after(60):
        beside = Beside()

        async def end() -> None:
            beside.cancel()

        await beside.run(anyio.sleep_forever, (0, end))


async def test_its_error_ends_main_and_leaves() -> None:
    """Bare, never in a group."""

    async def fail() -> None:
        raise KeyError("beside")

    with anyio.fail_after(60), pytest.raises(KeyError):
        await Beside().run(anyio.sleep_forever, (0, fail))


async def test_mains_own_error_leaves_as_it_is() -> None:
    """Also while something runs beside."""
    begun = anyio.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def fail() -> None:
        await begun.wait()
        raise ValueError("own")

    with anyio.fail_after(60), pytest.raises(ValueError, match="own"):
        await Beside().run(fail, (0, hang))


async def test_cancellation_from_outside_goes_on() -> None:
    """And what runs beside ends."""
    ended: list[bool] = []

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.move_on_after(0.05) as scope:
        await Beside().run(anyio.sleep_forever, (0, hang))

    assert scope.cancelled_caught
    assert ended == [True]


async def test_who_listens_begins_late() -> None:
    """Most mains have ended before; who listens to a long one has ended when that has."""
    quick, slow = Listener(), Listener()
    await quick.run(anyio.lowlevel.checkpoint)
    began = time.monotonic()

    with anyio.fail_after(60):
        await slow.run(slow.begun.wait)
        await anyio.sleep(0.01)

    assert slow.began - began >= GRACE - EARLY
    assert (slow.ended, quick.began) == (True, 0)


async def test_who_listens_has_the_variables_of_its_own_task() -> None:
    """Although many share a timer."""
    both = Listener(), Listener()

    async def main() -> None:
        for one in both:
            await one.begun.wait()

    async def run(number: int) -> None:
        var.set(f"{number}'s")
        await both[number].run(main)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, 0)
            tasks.start_soon(run, 1)

    assert [one.heard for one in both] == ["0's", "1's"]


async def test_who_listened_to_what_is_settled_has_ended_before_anybody_knows() -> None:
    """It is cancelled, and not waited for: whoever waits for the task comes later."""
    listener = Listener()

    async def main() -> None:
        await listener.begun.wait()
        listener.done = True

    async def run() -> None:
        await listener.run(main)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)

    assert listener.ended


async def test_who_listens_can_end_main() -> None:
    """By ``cancel``, and by an error, which leaves."""

    class Ending(Listener):
        async def listen(self) -> None:
            self.cancel()

    class Failing(Listener):
        async def listen(self) -> None:
            self.fail(KeyError("listening"))

    with anyio.fail_after(60):
        await Ending().run(anyio.sleep_forever)
        with pytest.raises(KeyError):
            await Failing().run(anyio.sleep_forever)


async def fail() -> None:
    """Fail at once."""
    raise KeyError("beside")


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_what_ran_beside_leaves_no_cycle_behind(use_uvloop: bool) -> None:
    """Tracebacks hold frames, and those what ran; only on asyncio, and only without its debug."""

    async def run() -> list[object]:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)  # other tests' threads may leave things of their own
        try:
            for done in (True, False):
                await Listener(done=done).run(partial(anyio.sleep, 3 * GRACE))
            await Beside().run(partial(anyio.sleep, 0.01), (0, anyio.sleep_forever))
            with suppress(KeyError):
                await Beside().run(anyio.sleep_forever, (0, fail))
            await anyio.sleep(0.01)
            gc.collect()
            return [one for one in gc.garbage if isinstance(one, Beside)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert not anyio.run(run, backend_options={"use_uvloop": use_uvloop})
