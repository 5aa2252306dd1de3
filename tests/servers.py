"""Servers in processes of their own, for tests that go over a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

START, STOP = 60.0, 60.0  # seconds to answer after the start, and to end after SIGTERM; chosen
LOOK = 0.02  # seconds between two looks; chosen


@attrs.frozen
class Server:
    """A server that runs: where it listens, its process, and the file of what it prints."""

    port: int
    process: subprocess.Popen[bytes]
    output_path: Path

    @property
    def base_url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What it has printed so far, errors included."""
        return self.output_path.read_text(errors="replace")

    def stop(self, timeout: float = STOP) -> int:
        """Ends it by SIGTERM, or SIGKILL when that takes too long, and gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def accepts(server: Server) -> bool:
    """Whether the server takes a connection."""
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True


def printed(word: str) -> Callable[[Server], bool]:
    """Whether the server has printed a line that is this word."""
    return lambda server: word in server.output.splitlines()


@contextmanager
def serve_process(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    port: int,
    ready: Callable[[Server], bool] = accepts,
    start: float = START,
    cwd: str | Path | None = None,
) -> Generator[Server]:
    """Runs a server until the block ends; `env` is added to this process's own."""
    with TemporaryDirectory() as folder:
        output_path = Path(folder) / "output"
        with output_path.open("wb") as output:
            process = subprocess.Popen(
                argv,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        server = Server(port, process, output_path)
        try:
            end = time.monotonic() + start
            while not ready(server):
                if process.poll() is not None:
                    raise AssertionError(f"ended with {process.returncode}:\n{server.output}")
                if time.monotonic() > end:
                    raise AssertionError(f"not ready within {start} s:\n{server.output}")
                time.sleep(LOOK)
            yield server
        finally:
            server.stop()


@attrs.frozen
class Llama:
    """llama.cpp's server with a tiny model of random weights."""

    port: int
    alias: str
    key: str | None = None

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve_llama(folder: Path, alias: str = "random", key: str | None = None) -> Generator[Llama]:
    """Runs llama.cpp's server; the model is made in the folder if it is not there."""
    script = Path(__file__).parent / "upstreams" / "llama.py"
    port = free_port()
    argv = [sys.executable, str(script), "--port", str(port), "--dir", str(folder)]
    argv += ["--alias", alias, *(["--api-key", key] if key else [])]
    with serve_process(argv, port=port, ready=printed("ready")):
        yield Llama(port, alias, key)
