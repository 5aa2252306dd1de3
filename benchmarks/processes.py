"""Processes of the benchmarks: each on its core, all started once, only one of them awake."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks import load, meter
from benchmarks.rigs import Rig, free_port

CORE, OTHER = 0, 1  # the gateway's core; the upstream's and the load's
START = 60.0  # seconds a gateway may take to start
LOOK = 0.005  # seconds between two looks whether it has started
FILES = 20_000  # open at once
HERE = Path(__file__).parent


@attrs.frozen
class Process:
    """A process, and those that it starts: one group."""

    pid: int
    log: Path

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to all of them."""
        os.killpg(self.pid, what)

    def end(self) -> None:
        """End all of them."""
        try:
            self.signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def check(self) -> None:
        """Raises RuntimeError when it has ended."""
        if os.waitpid(self.pid, os.WNOHANG)[0]:
            raise RuntimeError(f"it has ended:\n{self.log.read_text(errors='replace')[-2000:]}")


@attrs.frozen
class Running:
    """A rig that runs, asleep."""

    rig: Rig
    process: Process
    started_s: float  # until its first answer

    @property
    def name(self) -> str:
        """The rig's."""
        return self.rig.name

    @contextmanager
    def awake(self) -> Generator[None]:
        """Let it run: the others sleep, so that what they do by themselves disturbs nobody."""
        self.process.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.signal(signal.SIGSTOP)

    def cpu(self) -> float:
        """Seconds of CPU so far, its children's included."""
        return meter.cpu(*meter.family(self.process.pid))


@attrs.frozen
class Upstream:
    """The model's side, on the core of the load."""

    port: int
    process: Process

    def tell(self, **knobs: float) -> None:
        """Set its knobs; those that are not named are calm."""
        calm: dict[str, float] = {"wait_ms": 0, "delay_ms": 0, "events": 100, "together": 10}
        load.run(load.tell(self.port, **{**calm, **knobs}))

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return meter.cpu(self.process.pid)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, less what would slow Python down, and more."""
    slow = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    return {**{name: value for name, value in os.environ.items() if name not in slow}, **more}


def started(command: Sequence[str], core: int, environ: Mapping[str, str], log: Path) -> Process:
    """Start a process on one core."""
    with log.open("wb") as file:
        found = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(environ),
            cwd=HERE.parent,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    found.returncode = 0  # we wait for it ourselves, by its group
    return Process(found.pid, log)


def prepare() -> None:
    """Run on the core of the upstream and the load, with as many files as are allowed."""
    os.sched_setaffinity(0, {OTHER})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextmanager
def upstream(folder: Path) -> Generator[Upstream]:
    """The upstream, until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
    process = started(command, OTHER, {}, folder / "upstream.log")
    try:
        wait_for(process, port)
        yield Upstream(port, process)
    finally:
        process.end()


def wait_for(process: Process, port: int) -> None:
    """Wait until it listens. Raises RuntimeError, OSError."""
    end = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            process.check()
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens on {port}") from None
            time.sleep(LOOK)
        else:
            return


def port_of(process: Process) -> int:
    """The port that a process tells in its log. Raises RuntimeError, OSError."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", process.log.read_text()):
            return int(found[1])
        process.check()
        time.sleep(LOOK)
    raise TimeoutError("it tells no port")


@contextmanager
def running(rig: Rig, folder: Path) -> Generator[Running]:
    """A rig on its core, from its first good answer on, asleep. Raises RuntimeError, OSError."""
    began = time.monotonic()
    log = folder / f"{re.sub('[^a-z0-9]+', '-', rig.name.lower())}.log"
    process = started(rig.command, CORE, rig.environ, log)
    try:
        if not rig.port:
            rig = attrs.evolve(rig, port=port_of(process))
        wait_for(process, rig.port)
        while True:
            found = load.run(load.closed(rig.port, rig.request(), 1, 0))
            if found.answers:
                break
            process.check()
            if time.monotonic() - began > START:
                raise TimeoutError(f"no answer but {found.failure}\n{log.read_text()[-2000:]}")
            time.sleep(LOOK)
        took = time.monotonic() - began
        process.signal(signal.SIGSTOP)
        yield Running(rig, process, took)
    finally:
        process.end()


@contextmanager
def all_running(rigs: Sequence[Rig], folder: Path) -> Generator[list[Running]]:
    """All rigs at once, to be measured in turns; one that does not start is told and left out."""
    with ExitStack() as stack:
        found: list[Running] = []
        for rig in rigs:
            try:
                found.append(stack.enter_context(running(rig, folder)))
            except (RuntimeError, OSError) as exc:
                print(f"left out: {rig.name}: {exc}")
        yield found
