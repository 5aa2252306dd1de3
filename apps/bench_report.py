"""The bench's report: rows of costs as a table for people and as JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import attrs
import msgspec

from llmgw import __version__
from llmgw.apps.bench import FLOOR, Cost, Costs, Row

HIDDEN = "hidden by noise"
NONE = "-"
VERSIONS = ("anyio", "uvloop", "trio", "msgspec", "prometheus-client")


def version_of(name: str) -> str | None:
    """The version of a distribution, None when it is not here."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or "unknown"


def machine() -> str:
    """The machine, in a line."""
    return f"{platform.system()} {platform.machine()}, {processor()}"


def python() -> str:
    """The interpreter's version."""
    return platform.python_version()


def versions(names: Sequence[str] = VERSIONS) -> dict[str, str]:
    """The versions of what is here of some distributions."""
    return {name: found for name in names if (found := version_of(name)) is not None}


@attrs.frozen(kw_only=True)
class Report:
    """What was measured, with what, and where."""

    app: str  # what the layers stood around
    backend: str
    rounds: int
    requests: int  # in a turn
    rows: list[Row]
    llmgw: str = __version__
    python: str = attrs.field(factory=python)
    machine: str = attrs.field(factory=machine)
    versions: dict[str, str] = attrs.field(factory=versions)


def shown(cost: Cost | None) -> str:
    """A cost for people; one that its spread hides has no number."""
    if cost is None:
        return NONE
    if cost.us is None:
        return f"< {FLOOR}" if cost.small else HIDDEN
    ratio = "" if cost.ratio is None else f" ({cost.ratio:.2f}x)"
    return f"{cost.us:.2f} ± {cost.spread:.2f}{ratio}"


def cells(costs: Costs | None) -> list[str]:
    """A request's cost and a message's."""
    return [NONE, NONE] if costs is None else [shown(costs.request), shown(costs.message)]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table of text: the first column to the left, the others to the right."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def table(report: Report) -> str:
    """All costs for people."""
    units = ["us a request", "us a message"]
    head = [
        f"{report.backend}, Python {report.python}, {report.machine}",
        f"around {report.app}: median of {report.rounds} rounds ± spread (ratio to without it)",
    ]
    lines = [
        ["", "alone", "", "in the stack", ""],
        ["layer", *units, *units],
        *([row.name, *cells(row.alone), *cells(row.stack)] for row in report.rows),
    ]
    return "\n".join([*head, aligned(lines)])


def encode(report: Report) -> bytes:
    """A report as JSON."""
    return msgspec.json.format(msgspec.json.encode(report)) + b"\n"


def decode(data: bytes) -> Report:
    """A report from its JSON; what else stands there is left alone."""
    return msgspec.json.decode(data, type=Report)
