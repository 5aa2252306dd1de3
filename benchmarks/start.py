"""How long until the gateway's first answer, and how long does its import take?"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results, rigs

ROUNDS = 5
IMPORTS = ("llmgw", "llmgw.apps.gateway", "litellm")


def took(code: str) -> float:
    """Seconds for a Python to run ``code`` and end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def import_time(module: str) -> float:
    """Seconds for an import, an empty Python's start taken off; the median."""
    return statistics.median(took(f"import {module}") - took("pass") for _ in range(ROUNDS))


def main() -> None:
    """Measure what is here, write the figures."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, rigs.upstream() as upstream:
        found, absent = rigs.rigs(upstream, Path(folder))
        for line in absent:
            print("skipped:", line)
        for rig in results.chosen(found):
            times: list[float] = []
            for _ in range(ROUNDS):
                with rigs.running(rig, Path(folder)) as one:
                    times.append(one.started_s)
            rows.append({"name": rig.name, "first_answer_s": round(statistics.median(times), 2)})
    imports = {name: round(import_time(name), 3) for name in IMPORTS}
    print(results.table(rows, [("s to the first answer", lambda row: row["first_answer_s"])]))
    print("\n".join(f"import {name}: {seconds:.3f} s" for name, seconds in imports.items()))
    results.write("start", {"skipped": absent, "rows": rows, "imports_s": imports})


if __name__ == "__main__":
    sys.exit(main())
