"""What does each layer cost? ``llmgw bench layers`` on every event loop, each in its own process.

A process of its own, because what one loop imports changes what another costs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benchmarks import options, results
from llmgw.apps.bench_cli import BACKENDS


def main() -> None:
    """Measure what is here, keep the figures."""
    given = options.read()
    if wrong := [name for name in given.names if name not in BACKENDS]:
        sys.exit(f"there is no {', '.join(wrong)}; here are: {', '.join(BACKENDS)}")
    words = given.pick([], ["--rounds", "5", "--requests", "20"])
    for backend in BACKENDS:
        if not given.wants(backend):
            continue
        if find_spec(backend) is None:
            print(f"skipped: {backend}: not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layers.json"
            command = [sys.executable, "-m", "llmgw", "bench", "layers", "--backend", backend]
            subprocess.run([*command, "--json", str(path), *words], check=True)
            results.write(f"layers-{backend}", msgspec.json.decode(path.read_bytes()), given)


if __name__ == "__main__":
    main()
