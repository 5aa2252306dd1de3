"""Waits of tests for what has no event: they look until it is true, for a minute at most."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

LIMIT = 60.0  # seconds; long enough for any machine
LOOK = 0.01  # seconds between two looks


async def until(true: Callable[[], bool]) -> None:
    """Return once ``true()`` holds."""
    end = time.monotonic() + LIMIT
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not true within {LIMIT:g} s")
        await anyio.sleep(LOOK)
