"""Other people's clients against the gateway and the wall: ``nox -s clients``.

Each asks every fault, streamed and whole, alone and with a fallback. None may take a truncated
answer for a complete one, and none may repeat what the gateway has repeated already.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.faults import ENDLESS, ROWS, SHORT, settings
from tests.servers import free_port, serve_process
from tests.soak import HEAVY, config
from tests.upstreams.wall import TEXT, UNICODE, Wall

HERE = Path(__file__).parent
MODES = {
    "stream": (True, ""),
    "whole": (False, ""),
    "stream_next": (True, "-next"),
    "whole_next": (False, "-next"),
}
REPEATS = 3  # runs at a deployment: the gateway's, and nobody's on top


def cases() -> list[tuple[str, dict[str, Any]]]:
    """What is expected, and what is asked."""
    return [
        (getattr(row, mode), {"model": f"{row.name}{suffix}", "stream": stream})
        for row in ROWS
        if row.name not in HEAVY
        for mode, (stream, suffix) in MODES.items()
    ]


def run(name: str, command: list[str], folder: str) -> int:
    """Ask by one client, print, and give the number of surprises."""
    with Wall() as wall:
        path = Path(folder) / "llmgw.toml"
        path.write_text(config(wall, settings(SHORT, total=ENDLESS)))
        port = free_port()
        argv = [sys.executable, "-m", "llmgw", "serve", "--port", str(port), "--config", str(path)]
        with serve_process(argv, port=port, cwd=folder):
            asked = {"baseURL": f"http://127.0.0.1:{port}/v1", "cases": [one for _, one in cases()]}
            done = subprocess.run(
                command, input=json.dumps(asked), capture_output=True, text=True, cwd=folder
            )
        if done.returncode:
            print(done.stderr)
            return 1
        most = {one.model: len(wall.of(one.model)) for one in wall.attempts}
    wrong = 0
    for (expected, one), got in zip(cases(), json.loads(done.stdout), strict=True):
        good = got["ended"] == expected.partition(" ")[0]
        if got["ended"] == "ok" and got["said"] not in (TEXT, UNICODE):
            good = False
        if not good:
            wrong += 1
            print(f"{name}: {one}: expected {expected}, got {got['ended']} {got['said'][-40:]!r}")
    for model, times in most.items():
        if not model.startswith("well") and times > 2 * REPEATS:  # streamed and whole
            wrong += 1
            print(f"{name}: {model} was asked {times} times")
    print(f"{name}: {len(cases())} cases, {wrong} surprises")
    return wrong


def main() -> int:
    """All clients that are here."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        script = HERE / "langchain_client.py"
        wrong += run("langchain-openai", [sys.executable, str(script)], folder)
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            print("openai-node: SKIPPED, there is no node here")
            return wrong
        shutil.copy(HERE / "openai_node.mjs", folder)
        subprocess.run([npm, "install", "--silent", "--prefix", folder, "openai"], check=True)
        wrong += run("openai-node", [node, "openai_node.mjs"], folder)
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
