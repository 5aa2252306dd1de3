"""Ten thousand requests of random faults against a running gateway: what is left afterwards?

``nox -s soak``, or ``python -m tests.soak [REQUESTS]``. Prints the figures; exit code 1 when a
request, a socket, an upstream connection or memory is left. On Linux: it reads /proc.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import ROWS
from tests.servers import Server, free_port, serve_process
from tests.upstreams.wall import Wall

REQUESTS = 10_000
WARM = 2_000  # requests until caches are filled: from there on memory must stay
WORKERS = 64
ABORTS = 0.2  # of the clients hang up
GROWTH = 8.0  # MB that may be between the two; an allocator keeps some
FILES = 10  # open files that may be between the two
HEAVY = {"big-event"}  # 10 MB each: that is another test
SETTINGS = """
[retry]
backoff_s = 0.01
[timeouts]
first_token_s = 0.2
idle_s = 0.2
answer_s = 0.3
total_s = 0.6
[cooldown]
for_s = 0.1
"""


def config(wall: Wall, settings: str = SETTINGS) -> str:
    """A group for each fault, alone and with a fallback."""
    groups = [settings]
    for row in ROWS:
        for name, models in ((row.name, [row.model]), (f"{row.name}-next", [row.model, "well"])):
            groups.append(f'[[models]]\nname = "{name}"\n')
            groups += [
                f'[[models.deployments]]\nmodel = "openai/{model}:{name}"\n'
                f'api_base = "{wall.url}/v1"\n'
                for model in models
            ]
    return "".join(groups)


def ask(port: int, name: str, *, stream: bool, patience: float | None) -> str:
    """One request; with ``patience`` the client hangs up after so many seconds."""
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": name, "stream": stream, "messages": messages}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        if patience is not None:
            time.sleep(patience)
            return "left"
        first = last = connection.recv(1 << 16)
        while part := connection.recv(1 << 16):
            last = part
    status = first[9:12].decode()
    if status == "200" and stream and not last.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        return "error event" if b'"error"' in last else "cut"
    return status


def rss(server: Server) -> float:
    """Resident memory of the gateway's process, MB."""
    fields = Path(f"/proc/{server.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def files(server: Server) -> int:
    """Open files and sockets of the gateway's process."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def active(port: int) -> int:
    """Requests that run, but the one that asks."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        text = b""
        while part := connection.recv(1 << 16):
            text += part
    name = b"http_server_active_requests "
    line = next(line for line in text.splitlines() if line.startswith(name))
    return int(float(line.split()[1])) - 1


def settle(server: Server, wall: Wall, seconds: float = 15.0) -> None:
    """Wait until nothing runs, or for ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and active(server.port):
        time.sleep(0.1)


def soak(requests: int) -> int:
    """Run, print, and give the exit code."""
    dice = random.Random(7)
    names = [
        name for row in ROWS if row.name not in HEAVY for name in (row.name, f"{row.name}-next")
    ]
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, Wall() as wall:
        path = Path(folder) / "llmgw.toml"
        path.write_text(config(wall))
        port = free_port()
        command = [sys.executable, "-m", "llmgw", "serve"]
        argv = [*command, "--port", str(port), "--config", str(path)]
        with (
            serve_process(argv, port=port, cwd=folder) as server,
            ThreadPoolExecutor(WORKERS) as pool,
        ):
            before = (0.0, 0)
            began = time.monotonic()
            for start, end in ((0, min(WARM, requests)), (min(WARM, requests), requests)):
                jobs = []
                for _ in range(start, end):
                    patience = dice.random() * 0.2 if dice.random() < ABORTS else None
                    name, stream = dice.choice(names), dice.random() < 0.7
                    jobs.append(pool.submit(ask, port, name, stream=stream, patience=patience))
                for job in jobs:
                    seen[job.result()] += 1
                settle(server, wall)
                if not start:
                    before = rss(server), files(server)
            took = time.monotonic() - began
            after = rss(server), files(server)
            running = active(port)
            kept = wall.open_connections
    print(f"{requests} requests in {took:.0f} s: {dict(seen.most_common())}")
    print(f"memory {before[0]:.1f} -> {after[0]:.1f} MB, files {before[1]} -> {after[1]}")
    print(f"requests left {running}, upstream connections kept {kept}")
    bad = [
        *(["memory grew"] if after[0] - before[0] > GROWTH else []),
        *(["files are left"] if after[1] - before[1] > FILES else []),
        *(["requests are left"] if running else []),
        *(["a stream was cut without a word"] if seen["cut"] else []),
        *(["the gateway failed"] if seen["500"] else []),
    ]
    print("; ".join(bad) or "nothing is left")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(soak(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS))
