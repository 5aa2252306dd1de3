"""Results: figures as JSON, with the machine, the versions and the commit they belong to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.options import RESULTS, Options
from llmgw import __version__
from llmgw.apps import bench_report

HERE = Path(__file__).parent
VERSIONS = ("uvicorn", "uvloop", "httptools", "anyio", "trio", "msgspec", "litellm", "aiohttp")

Column = tuple[str, Callable[[Mapping[str, Any]], float | None]]


def commit() -> str:
    """The commit that is measured, marked when the tree is not clean; what results say is none."""
    outside = [f":(exclude){path}" for path in ("benchmarks/results", "docs")]
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *outside]
    found = [
        subprocess.run(words, cwd=HERE.parent, capture_output=True, text=True, check=False).stdout
        for words in (["git", "rev-parse", "--short", "HEAD"], command)
    ]
    return (found[0].strip() or "unknown") + ("-dirty" if found[1].strip() else "")


def facts() -> dict[str, Any]:
    """Where and with what something is measured."""
    return {
        "llmgw": __version__,
        "commit": commit(),
        "python": bench_report.python(),
        "machine": bench_report.machine(),
        "cores": os.cpu_count(),
        "versions": bench_report.versions(VERSIONS),
    }


def encode(data: Mapping[str, Any]) -> bytes:
    """JSON for people, too."""
    return msgspec.json.format(msgspec.json.encode(data)) + b"\n"


def write(name: str, data: Mapping[str, Any], options: Options) -> None:
    """Keep a result, if it is one to be kept."""
    if options.folder is None:
        return print("not kept: it is not the whole at full length, and there is no --out")
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"{name}.json"
    path.write_bytes(encode({**facts(), **data}))
    print(f"kept: {path}")


def read(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """A result that was kept, None when there is none."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return found


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """Rows for people: a name and figures."""
    lines = [["", *(title for title, _ in columns)]]
    for row in rows:
        values = [value_of(row) for _, value_of in columns]
        lines.append([row["name"], *("" if v is None else f"{v:,.4g}" for v in values)])
    return bench_report.aligned(lines)
