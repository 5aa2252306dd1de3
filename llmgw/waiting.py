"""Waiting: a clock for what mostly needs none.

Even a Block costs a few microseconds. What is done without a wait is done without one.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

from llmgw.block import Block
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


async def wait_for(awaitable: Awaitable[T]) -> T:
    """A coroutine that waits for anything."""
    return await awaitable


async def within(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """``await coroutine``, at most ``seconds`` long. Raises Expired."""
    if "trio" in sys.modules and not on_asyncio():  # trio's own waits are scopes
        with Block(seconds):
            return await coroutine
        raise Expired
    try:
        signal = coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    with Block(seconds):
        return await resume(coroutine, signal)
    raise Expired
