"""Drain: the end of a process, in order: no new work, time for what runs, then its end.

Pure state and scopes; who listens to the signal is the app's matter.
"""

from __future__ import annotations

import anyio
import attrs

from llmgw._concurrency.block import Block

CUT = 2.0  # seconds that exchanges have to tell their clients, once they are cut; chosen


@attrs.define(eq=False)
class Drain:
    """Whether the process is ending, and the exchanges that run."""

    begun: bool = False
    running: set[Block] = attrs.field(factory=set[Block])
    _idle: anyio.Event | None = attrs.field(default=None, init=False)

    def enter(self, block: Block) -> None:
        """An exchange begins."""
        self.running.add(block)

    def leave(self, block: Block) -> None:
        """An exchange has ended."""
        self.running.discard(block)
        if self._idle is not None and not self.running:
            self._idle.set()

    async def ready(self) -> str | None:
        """For readiness: why no new work is taken, None if it is."""
        return "shutting down" if self.begun else None

    async def finish(self, seconds: float) -> None:
        """Take nothing new, give what runs ``seconds``, cut the rest; return when it is done."""
        self.begun = True
        await self._wait(seconds)
        self.cut()
        await self._wait(CUT)

    def cut(self) -> None:
        """End what runs, now."""
        for block in list(self.running):
            block.cancel()

    async def _wait(self, seconds: float) -> None:
        if self.running:
            self._idle = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._idle.wait()
