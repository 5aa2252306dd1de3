"""Names: addresses of hosts, looked up in threads that one bad name cannot use up.

The system's look-up blocks its thread, for many seconds when a name server does not answer. The
loop's own ``getaddrinfo`` shares a handful of threads between all names, so a few requests to one
such name would stop every new connection. Here each name has at most one thread, all requests to
that name wait for its result, and the result is used again for a short time.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence

import anyio
import attrs
from anyio import from_thread
from anyio.lowlevel import EventLoopToken, current_token

FRESH = 10.0  # seconds in which a result is used again; chosen: failover by DNS goes on working
THREADS = 64  # names that are looked up at once; chosen
KEPT = 1000  # names whose addresses are kept; chosen


@attrs.define(eq=False)
class LookUp:
    """One look-up of a name, and the callers that wait for it."""

    waiting: list[tuple[anyio.Event, EventLoopToken]] = attrs.field(
        factory=list[tuple[anyio.Event, EventLoopToken]]
    )
    done: bool = False
    addresses: Sequence[str] = ()
    error: OSError | None = None


@attrs.define(eq=False)
class Names:
    """The look-ups of this process. Safe to use from several threads and event loops."""

    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _running: dict[str, LookUp] = attrs.field(factory=dict[str, LookUp], init=False)
    _known: dict[str, tuple[float, Sequence[str]]] = attrs.field(
        factory=dict[str, tuple[float, Sequence[str]]], init=False
    )

    async def addresses(self, host: str) -> Sequence[str]:
        """The addresses of a host, in the order of the system. Raises OSError.

        A caller that gives up leaves the look-up running for those who come after it.
        """
        found = self._known.get(host)
        if found is not None and time.monotonic() < found[0] + FRESH:
            return found[1]
        waiter = anyio.Event()
        with self._lock:
            running = self._running.get(host)
            if running is None:
                running = self._start(host)
            if not running.done:
                running.waiting.append((waiter, current_token()))
        if not running.done:
            await waiter.wait()
        if running.error is not None:
            raise type(running.error)(*running.error.args)
        return running.addresses

    def forget(self, host: str) -> None:
        """Look the host up again the next time: none of its addresses could be reached."""
        self._known.pop(host, None)

    def clear(self) -> None:
        """Forget everything, also look-ups that run: in a forked child their threads are gone."""
        self._lock = threading.Lock()
        self._running.clear()
        self._known.clear()

    def _start(self, host: str) -> LookUp:
        if len(self._running) >= THREADS:
            raise OSError("too many names are being looked up")
        running = self._running[host] = LookUp()
        # a daemon: a look-up that hangs must not keep the process from ending
        threading.Thread(target=self._run, args=(host, running), daemon=True).start()
        return running

    def _run(self, host: str, running: LookUp) -> None:
        try:
            entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            running.addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except OSError as exc:
            running.error = exc
        except ValueError as exc:  # UnicodeError too: not a valid host name
            running.error = OSError(str(exc))
        with self._lock:
            self._running.pop(host, None)
            if running.error is None:
                if len(self._known) >= KEPT:
                    self._known.clear()
                self._known[host] = time.monotonic(), running.addresses
            running.done = True
            waiting, running.waiting = running.waiting, []
        for waiter, token in waiting:
            try:
                from_thread.run_sync(waiter.set, token=token)
            except RuntimeError:  # that event loop has ended
                continue


names = Names()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=names.clear)
