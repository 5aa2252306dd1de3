"""Options of every script here: which rigs, how long, where to.

``python -m benchmarks.gateway [NAME ...] [--quick] [--out FOLDER]``. Figures are kept in
``results/`` when they are whole: all rigs, full length. Otherwise only where ``--out`` says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import attrs

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"


@attrs.frozen
class Options:
    """What the command line says."""

    names: Sequence[str] = ()
    quick: bool = False
    out: Path | None = None

    def pick(self, whole: T, quick: T) -> T:
        """The second when it must be quick."""
        return quick if self.quick else whole

    def wants(self, name: str) -> bool:
        """Whether a rig is to be measured; without names, all are."""
        return not self.names or name in self.names

    @property
    def folder(self) -> Path | None:
        """Where the figures are kept, None for nowhere."""
        whole = not self.quick and not self.names
        return self.out or (RESULTS if whole else None)


def read(argv: Sequence[str] | None = None) -> Options:
    """Read the command line; BENCH_QUICK=1 is --quick. Exits with a line when it is wrong."""
    given = list(sys.argv[1:] if argv is None else argv)
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    out: Path | None = None
    names: list[str] = []
    while given:
        word = given.pop(0)
        if word == "--quick":
            quick = True
        elif word == "--out" and given:
            out = Path(given.pop(0))
        elif word.startswith("-"):
            sys.exit(f"unknown option {word}; [NAME ...] [--quick] [--out FOLDER]")
        else:
            names.append(word)
    return Options(tuple(names), quick, out)
