"""The hot path does not grow unnoticed: calls are counted; times depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import counts

ROOT = Path(__file__).parent.parent
PROGRAM = """
import anyio, json
from benchmarks import counts
print(json.dumps(anyio.run(counts.measure)))
"""


@pytest.mark.skipif(
    counts.VERSION not in counts.recorded(),
    reason=f"no baseline for Python {counts.VERSION}: python -m benchmarks.counts records one",
)
def test_calls_on_the_hot_path() -> None:
    """Not one more than is recorded; in a process that has imported nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    baseline = counts.recorded()[counts.VERSION]

    assert all(found[name] <= baseline[name] for name in baseline), (found, baseline)
