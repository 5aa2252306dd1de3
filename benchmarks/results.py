"""Results: figures as JSON, with the machine, the versions and the commit they belong to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import rigs
from llmgw import __version__
from llmgw.apps import bench

HERE = Path(__file__).parent
FOLDER = HERE / "results"
VERSIONS = ("uvicorn", "uvloop", "httptools", "anyio", "trio", "msgspec", "litellm", "aiohttp")

Column = tuple[str, Callable[[Mapping[str, Any]], float | None]]


def commit() -> str:
    """The commit that is measured, marked when the tree is not clean (results do not count)."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def facts() -> dict[str, Any]:
    """Where and with what something is measured."""
    return {
        "llmgw": __version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "machine": bench.machine(),
        "cores": os.cpu_count(),
        "versions": {name: bench.version_of(name) for name in VERSIONS},
    }


def write(name: str, data: Mapping[str, Any]) -> None:
    """Write a result."""
    text = msgspec.json.format(msgspec.json.encode({**facts(), **data}))
    (FOLDER / f"{name}.json").write_bytes(text + b"\n")


def read(name: str) -> dict[str, Any]:
    """A result that was written."""
    found: dict[str, Any] = msgspec.json.decode((FOLDER / f"{name}.json").read_bytes())
    return found


def pin_myself() -> None:
    """Run on the core of the upstream and the load."""
    os.sched_setaffinity(0, {rigs.OTHER})


def chosen(found: Sequence[rigs.Rig]) -> list[rigs.Rig]:
    """Those named on the command line; all, when none is."""
    names = sys.argv[1:]
    return [rig for rig in found if not names or rig.name in names]


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """Rows for people: a name and figures."""
    cells = [["", *(title for title, _ in columns)]]
    for row in rows:
        values = [value_of(row) for _, value_of in columns]
        cells.append([row["name"], *("" if v is None else f"{v:,.4g}" for v in values)])
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )
