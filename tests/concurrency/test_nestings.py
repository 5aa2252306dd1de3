"""Every nesting of what can be cancelled, cancelled at every level: nothing leaks, shields hold.

A nesting is a word, outermost first: ``b`` a Block that is cancelled, ``c`` a Block whose clock
runs out, ``a`` an anyio scope, ``s`` an anyio shield, ``t`` an ``asyncio.timeout``. Inside of all,
code waits; then one to three levels are cancelled, in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest

from llmgw._concurrency.block import Block
from tests.conftest import Backend

LOOPS: dict[str, Backend] = {
    "asyncio": ("asyncio", {"debug": True}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
DEPTH = 3
Log = list[tuple[str, int]]


@attrs.frozen
class Nesting:
    """What lies within what, and which levels are cancelled, in this order."""

    kinds: str
    cancelled: tuple[int, ...]

    @property
    def outermost(self) -> int:
        """The outermost level that is cancelled."""
        return min(self.cancelled)

    def __str__(self) -> str:
        return f"{self.kinds}-{'-'.join(map(str, self.cancelled))}"


def nestings(kinds: str) -> Iterator[Nesting]:
    """All of them, with one to three levels cancelled, in every order."""
    for depth in range(1, DEPTH + 1):
        for word in map("".join, itertools.product(kinds, repeat=depth)):
            levels = [level for level, kind in enumerate(word) if kind != "s"]
            for count in range(1, DEPTH + 1):
                for cancelled in itertools.permutations(levels, count):
                    yield Nesting(word, cancelled)


async def run(nesting: Nesting) -> Log:
    """What is reached: ``inner`` the code inside of all, ``in`` and ``after`` a level."""
    log: Log = []
    cancels: list[Callable[[], object]] = []
    waiting, go_on = anyio.Event(), anyio.Event()

    async def code(level: int) -> None:
        if level == len(nesting.kinds):
            waiting.set()
            await go_on.wait()
            await anyio.sleep(0.05)
            log.append(("inner", level))
            return
        await enter(level)
        log.append(("after", level))

    async def inside(level: int) -> None:
        await code(level + 1)
        await anyio.lowlevel.checkpoint()
        log.append(("in", level))

    async def enter(level: int) -> None:
        kind = nesting.kinds[level]
        if kind == "b":
            with Block() as block:
                cancels.append(block.cancel)
                await inside(level)
        elif kind == "c":
            with Block() as clock:
                cancels.append(lambda: clock.start(0))
                await inside(level)
        elif kind in "as":
            with anyio.CancelScope(shield=kind == "s") as scope:
                cancels.append(scope.cancel)
                await inside(level)
        else:
            try:
                async with asyncio.timeout(None) as timeout:
                    cancels.append(lambda: timeout.reschedule(0))
                    await inside(level)
            except TimeoutError:
                pass

    async def cancel() -> None:
        await waiting.wait()
        go_on.set()
        await anyio.lowlevel.checkpoint()
        for level in nesting.cancelled:
            cancels[level]()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            await code(0)
    return log


def expected(nesting: Nesting) -> Log:
    """What anyio's semantics say, without an event loop."""
    log: Log = []

    def visible(depth: int) -> bool:
        """Whether code inside this many levels is cancelled at its next wait."""
        return any("s" not in nesting.kinds[level + 1 : depth] for level in cancelled_in(depth))

    def cancelled_in(depth: int) -> list[int]:
        return [level for level in nesting.cancelled if level < depth]

    def code(level: int) -> bool:
        """Whether a cancellation leaves this level."""
        if level == len(nesting.kinds):
            if not visible(level):
                log.append(("inner", level))
            return visible(level)
        leaves = code(level + 1) or visible(level + 1)
        if not leaves:
            log.append(("in", level))
        if leaves and level in nesting.cancelled and not visible(level):
            leaves = False
        if not leaves:
            log.append(("after", level))
        return leaves

    assert not code(0)
    return log


async def all_of(
    kinds: str, check: Callable[[Nesting, Log], bool], runner: Callable[[Nesting], Any] = run
) -> list[str]:
    """Run all nestings of these kinds beside each other; those that fail, with what happened."""
    wrong: list[str] = []

    async def one(nesting: Nesting) -> None:
        try:
            log = await runner(nesting)
        except BaseException as exc:
            if isinstance(exc, anyio.get_cancelled_exc_class()):
                wrong.append(f"{nesting}: a cancellation leaked")
                return
            raise
        if not check(nesting, log):
            wrong.append(f"{nesting}: {log}")

    async with anyio.create_task_group() as tasks:
        for number, nesting in enumerate(nestings(kinds)):
            tasks.start_soon(one, nesting)
            if number % 100 == 99:
                await anyio.sleep(0.05)
    return wrong


def ends_right(nesting: Nesting, log: Log) -> bool:
    """The outermost cancelled level ends, and what is around it goes on.

    A level within may have ended a turn of the loop earlier.
    """
    last = nesting.outermost
    around = [(word, level) for level in range(last) for word in ("in", "after")]
    return ("after", last) in log and ("in", last) not in log and set(around) <= set(log)


def as_anyio_says(nesting: Nesting, log: Log) -> bool:
    """The same log; a clock runs out a turn later than a call of ``cancel``."""
    if "c" not in nesting.kinds:
        return log == expected(nesting)
    lasting = [entry for entry in expected(nesting) if entry[0] != "after"]
    return ("after", nesting.outermost) in log and [one for one in log if one in lasting] == lasting


@pytest.mark.parametrize("anyio_backend", LOOPS.values(), ids=LOOPS)
async def test_with_scopes_and_shields_all_is_as_anyio_says(anyio_backend: Backend) -> None:
    """Shielded code ends whole; then the outermost cancelled level ends, and no other."""
    assert not await all_of("bcas", as_anyio_says)


@pytest.mark.parametrize("anyio_backend", list(LOOPS.values())[:2], ids=list(LOOPS)[:2])
async def test_with_asyncios_timeouts_nothing_leaks(anyio_backend: Backend) -> None:
    """The outermost cancelled level ends, and what is around it goes on."""
    assert not await all_of("bct", ends_right)


def test_there_are_enough_of_them() -> None:
    """A thousand and more."""
    assert len(list(nestings("bcas"))) + len(list(nestings("bct"))) > 1000
