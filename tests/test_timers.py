"""Timers: waits of one length share a timer of the loop; only on asyncio."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw import timers as module
from llmgw.timers import EARLY, KEY, set_timer
from tests.conftest import Backend
from tests.waits import until

LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]
pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS, ids=["asyncio", "uvloop"])

var = ContextVar("var", default="nobody's")


async def test_who_waits_is_called_and_who_left_is_not(anyio_backend: Backend) -> None:
    """Who leaves is taken out."""
    loop, called = asyncio.get_running_loop(), list[object]()
    timers, *_ = [set_timer(who, 0.01, called.append, loop) for who in "abc"]
    timers.pop("b", None)
    assert called == []
    await asyncio.sleep(0.05)

    assert called == ["a", "c"]
    assert not timers


async def test_waits_of_one_length_share_a_timer(anyio_backend: Backend) -> None:
    """It is set for the first, then for the first that is left; with nobody it is not set again."""
    loop, called = asyncio.get_running_loop(), list[tuple[object, float]]()

    def call(who: object) -> None:
        called.append((who, loop.time()))

    timers = set_timer("a", 0.3, call, loop)
    await asyncio.sleep(0.01)
    began = loop.time()
    assert set_timer("b", 0.3, call, loop) is timers
    timers.pop("a")
    await until(lambda: not vars(loop)[KEY])

    assert not vars(loop)[KEY]  # lengths that are over do not pile up
    assert [who for who, _ in called] == ["b"]
    assert called[0][1] >= began + 0.3 - EARLY


async def test_one_that_may_be_late_comes_with_the_next_turn(anyio_backend: Backend) -> None:
    """Those that are due soon after another one wait for more."""
    loop, called = asyncio.get_running_loop(), list[tuple[object, float]]()

    def call(who: object) -> None:
        called.append((who, loop.time()))

    set_timer("a", 0.3, call, loop, late=0.5)
    for who in "bc":
        await asyncio.sleep(0.01)
        set_timer(who, 0.3, call, loop, late=0.5)
    await until(lambda: len(called) == 3)

    assert [who for who, _ in called] == ["a", "b", "c"]
    assert called[1][1] - called[0][1] >= 0.3


async def test_one_that_is_set_in_a_call_is_called_too(anyio_backend: Backend) -> None:
    """Of the same length."""
    loop, called = asyncio.get_running_loop(), list[object]()

    def call(who: object) -> None:
        called.append(who)
        if len(called) < 3:
            set_timer(len(called), 0.005, call, loop)

    set_timer(0, 0.005, call, loop)
    await until(lambda: len(called) == 3)

    assert called == [0, 1, 2]


async def test_a_timer_keeps_no_variables_of_a_request(anyio_backend: Backend) -> None:
    """It is set by one, and serves others."""
    seen: list[str] = []
    var.set("the first one's")

    set_timer(1, 0.01, lambda _: seen.append(var.get()), asyncio.get_running_loop())
    await asyncio.sleep(0.05)

    assert seen == ["nobody's"]


async def test_a_long_timer_looks_now_and_then_whether_anybody_waits(
    anyio_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits is not called for that."""
    monkeypatch.setattr(module, "LONGEST", 0.01)
    loop, called = asyncio.get_running_loop(), list[object]()
    set_timer("a", 0.5, called.append, loop)
    set_timer("b", 60, called.append, loop).pop("b")
    await asyncio.sleep(0.03)
    assert called == []
    assert [timers.seconds for timers in vars(loop)[KEY].values()] == [0.5]
    await until(lambda: bool(called))

    assert called == ["a"]


PAUSES, LENGTHS = st.sampled_from([0.0, 0.002, 0.005]), st.sampled_from([0.0, 0.01, 0.02])


@settings(max_examples=20)
@given(waits=st.lists(st.tuples(PAUSES, LENGTHS, st.booleans())))
def test_nobody_is_called_early_and_nobody_forgotten(
    anyio_backend: Backend, waits: list[tuple[float, float, bool]]
) -> None:
    """Whoever waits, for however long: each with a pause before, and whether it leaves."""

    async def run() -> None:
        loop, called, due = asyncio.get_running_loop(), dict[Any, float](), dict[Any, float]()

        def call(who: Any) -> None:
            called[who] = loop.time()

        for who, (pause, length, leaves) in enumerate(waits):
            await asyncio.sleep(pause)
            before = loop.time()
            timers = set_timer(who, length, call, loop)
            if leaves:
                timers.pop(who)
            else:
                due[who] = before + length
        await until(lambda: called.keys() >= due.keys())
        await asyncio.sleep(0.02)

        assert called.keys() == due.keys()
        assert all(called[who] >= due[who] - EARLY for who in due)

    backend, options = anyio_backend
    anyio.run(run, backend=backend, backend_options=options)


def test_every_loop_has_its_own(anyio_backend: Backend) -> None:
    """One after another, and several in threads; one that was left in the middle harms none."""
    called: list[object] = []

    async def run(who: object) -> None:
        loop = asyncio.get_running_loop()
        set_timer((who, "short"), 0.01, called.append, loop)
        set_timer((who, "long"), 60, called.append, loop)
        await until(lambda: (who, "short") in called)

    def runs(name: str) -> None:
        for number in range(3):
            anyio.run(run, (name, number), backend=backend, backend_options=options)

    backend, options = anyio_backend

    threads = [threading.Thread(target=runs, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(called) == {((name, n), "short") for name in "ab" for n in range(3)}


def test_no_loop_is_kept_alive(anyio_backend: Backend) -> None:
    """Nor who waited there."""

    class Who:
        """Somebody."""

    async def run() -> tuple[weakref.ref[object], weakref.ref[object]]:
        loop, who = asyncio.get_running_loop(), Who()
        set_timer(who, 60, print, loop)
        assert KEY in vars(loop)
        return weakref.ref(loop), weakref.ref(who)

    backend, options = anyio_backend
    refs = anyio.run(run, backend=backend, backend_options=options)
    gc.collect()

    assert [ref() for ref in refs] == [None, None]
