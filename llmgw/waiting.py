"""Waiting: a clock for what mostly needs none.

A cancel scope costs about 10 us on asyncio. What is done without a wait is done without a scope.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import anyio

from llmgw.portal import on_asyncio

T = TypeVar("T")


class Expired(Exception):  # noqa: N818 - it is an answer, not an error
    """The clock ran out."""


@types.coroutine
def resume(coroutine: Coroutine[Any, Any, T], signal: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that was driven to its first wait, which gave ``signal``."""
    while True:
        error: BaseException | None = None
        answer: Any = None
        try:
            answer = yield signal
        except BaseException as exc:
            error = exc  # it is the coroutine's to handle
        try:
            signal = coroutine.send(answer) if error is None else coroutine.throw(error)
        except StopIteration as done:
            result: T = done.value
            return result


async def within(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """``await coroutine``, at most ``seconds`` long. Raises Expired.

    On asyncio the coroutine must not hold an anyio cancel scope or task group at its first wait:
    the clock's scope is entered only then. A server's ``receive`` and ``send`` hold none.
    """
    if not on_asyncio():  # trio's own waits are scopes
        with anyio.move_on_after(seconds):
            return await coroutine
        raise Expired
    try:
        signal = coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    with anyio.move_on_after(seconds):
        return await resume(coroutine, signal)
    raise Expired
