"""How long until the gateway's first answer, and how long does its import take?"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks import options, processes, results
from benchmarks.field import by_cost, prepared
from benchmarks.processes import CORE
from benchmarks.rigs import Rig

ROUNDS = 5
IMPORTS = ("llmgw", "llmgw.apps.gateway", "litellm")
ENVIRON = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else its import asks the network


def took(code: str) -> float:
    """Seconds for a Python on the gateways' core to run ``code`` and end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        env=processes.environment(ENVIRON),
        preexec_fn=lambda: os.sched_setaffinity(0, {CORE}),
    )
    return time.perf_counter() - began


def import_time(module: str, rounds: int) -> float:
    """Seconds for an import, an empty Python's start taken off; the median."""
    took(f"import {module}")  # it may be compiled
    return statistics.median(took(f"import {module}") - took("pass") for _ in range(rounds))


def main() -> None:
    """Measure what is here, keep the figures."""
    given = options.read()
    rounds = given.pick(ROUNDS, 1)
    seen: dict[str, list[float]] = {}
    with prepared(given) as field:
        for number in range(rounds + 1):
            for rig in field.rigs:

                def go(rig: Rig = rig, number: int = number) -> None:
                    with processes.running(rig, field.folder) as one:
                        if number:  # the first time it may be compiled
                            seen.setdefault(rig.name, []).append(one.started_s)

                field.attempt(rig.name, go)
            print(f"round {number} of {rounds}")
        imports = {name: round(import_time(name, rounds), 3) for name in IMPORTS}
    rows: list[dict[str, Any]] = [
        {"name": name, "first_answer_s": round(statistics.median(times), 2)}
        for name, times in seen.items()
    ]
    by_cost(rows, lambda row: row["first_answer_s"])
    print(results.table(rows, [("s to the first answer", lambda row: row["first_answer_s"])]))
    print("\n".join(f"import {name}: {seconds:.3f} s" for name, seconds in imports.items()))
    results.write("start", {**field.facts(), "rows": rows, "imports_s": imports}, given)


if __name__ == "__main__":
    main()
