"""Portal: lets asyncio-only libraries (litellm, redis.asyncio) serve a trio host.

On asyncio a call runs where it is. On trio it runs on one asyncio loop in a daemon thread, started
at the first call; cancellation, exceptions and context variables travel across.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import current_token

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def on_asyncio() -> bool:
    """Whether the running event loop is asyncio's."""
    if "trio" not in sys.modules:  # there is no other; to ask asyncio costs a system call on 3.11
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def running_loop() -> object:
    """What the running event loop is known by: the same object as long as it runs."""
    return asyncio.get_running_loop() if on_asyncio() else current_token().native_token


def loop() -> asyncio.AbstractEventLoop:
    """The portal's loop, started when it is first needed; its thread never blocks the exit."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="llmgw-portal", daemon=True).start()
        return _loop


def told_asyncio() -> None:
    """Say in this context that the loop is asyncio: anyio.run() has said "trio" in the caller's."""
    import sniffio  # trio depends on it

    sniffio.current_async_library_cvar.set("asyncio")


def call(func: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Coroutine[Any, Any, T]:
    """``func(*args)``, to be awaited, on an asyncio loop: this one, or the portal's."""
    return func(*args) if on_asyncio() else _outcome(func, args)


async def _outcome(func: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    # Nothing here may name the outcome: an error's traceback holds this frame, for the collector
    return (await _carried(func, args)).result()


async def _carried(func: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> Future[T]:
    """What has become of a call on the portal's loop."""
    context = contextvars.copy_context()
    context.run(told_asyncio)
    there = loop()
    done = anyio.Event()
    token = current_token()
    box: Future[T] = Future()
    task: asyncio.Task[T] | None = None

    def finish(ended: asyncio.Task[T]) -> None:
        if ended.cancelled():
            box.cancel()
        elif (error := ended.exception()) is not None:
            box.set_exception(error)
        else:
            box.set_result(ended.result())
        anyio.from_thread.run_sync(done.set, token=token)

    def start() -> None:
        nonlocal task
        task = there.create_task(_awaited(func, args), context=context)
        task.add_done_callback(finish)

    there.call_soon_threadsafe(start)
    try:
        await done.wait()
    except anyio.get_cancelled_exc_class():
        there.call_soon_threadsafe(lambda: task and task.cancel())
        with anyio.CancelScope(shield=True):
            await done.wait()
        if box.cancelled() or box.exception() is not None:
            raise
        # It was done before it heard: what it opened must not be lost. The caller's next wait
        # raises the cancellation anew.
    return box


async def _awaited(func: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    return await func(*args)
