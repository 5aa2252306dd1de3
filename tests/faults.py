"""What must come of every fault of the wall: the law of the stream and of failure, as one table.

``python -m tests.faults`` writes it into docs/reliability.md; a test sees that it stands there.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from tests.upstreams.wall import FAULTS

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"

# The clocks of the gateway under test, in seconds. A fault that answers has all the time that a
# busy machine may need; the clocks are short only for a fault that is silent on purpose.
PATIENT, SHORT, BACKOFF = 60.0, 1.5, 0.01
ENDLESS = 4.0  # seconds of the deadline for a stream that never ends


def settings(clock: float, total: float = 120) -> str:
    """The gateway's settings, with this clock for each wait and ``total`` for all."""
    return f"""
[retry]
backoff_s = {BACKOFF}
budget = 100

[timeouts]
first_token_s = {clock}
idle_s = {clock}
answer_s = {clock}
total_s = {total}
"""


@attrs.frozen
class Row:
    """A fault and its outcomes: ``ok``, a status, or ``event STATUS`` for an error in the stream.

    ``stream`` and ``whole``: without another deployment; ``stream_next``, ``whole_next``: with one.
    ``attempts``: how often the failing deployment is asked, in the order of the four.
    """

    model: str
    stream: str
    whole: str
    stream_next: str = "ok"
    whole_next: str = "ok"
    attempts: tuple[int, int, int, int] = (1, 1, 1, 1)

    @property
    def name(self) -> str:
        """The fault's name."""
        return self.model.partition("@")[0]

    def __str__(self) -> str:
        return self.name


ONCE, TWICE, THRICE = (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)
LIMITED = (3, 3, 1, 1)  # a limit is waited for only where there is no other deployment
BEGUN = (1, 3, 1, 3)  # a stream that has begun is not asked for again
SILENT = frozenset({"silence", "headers-then-silence", "never-content", "stall", "endless"})
ROWS = [
    Row("well", "ok", "ok"),
    Row("429", "429", "429", attempts=LIMITED),
    Row("429-after@0.5", "429", "429", attempts=LIMITED),
    Row("500-once", "ok", "ok", attempts=TWICE),
    Row("503", "502", "502", attempts=THRICE),
    Row("401", "401", "401"),
    Row("400-context", "400", "400"),
    Row("400-content", "400", "400", "400", "400"),
    Row("html", "502", "502", attempts=THRICE),
    Row("html-502", "502", "502", attempts=THRICE),
    Row("reset-before-headers", "502", "502", attempts=THRICE),
    Row("silence", "504", "504"),
    Row("headers-then-silence", "504", "504"),
    Row("never-content", "504", "504"),
    Row("slow-first@0.3", "ok", "ok"),
    Row("cut-fin", "event 502", "502", "event 502", attempts=BEGUN),
    Row("cut-rst", "event 502", "502", "event 502", attempts=BEGUN),
    Row("eof-clean", "event 502", "502", "event 502", attempts=BEGUN),
    Row("half-event", "event 502", "502", "event 502", attempts=BEGUN),
    Row("wrong-length", "event 502", "502", "event 502", attempts=BEGUN),
    Row("stall", "event 504", "504", "event 504"),
    Row("malformed", "event 502", "502", "event 502", attempts=BEGUN),
    Row("malformed-first", "502", "502", attempts=THRICE),
    Row("error-first", "502", "502", attempts=THRICE),
    Row("error-mid", "event 502", "502", "event 502", attempts=BEGUN),
    Row("empty", "502", "502", attempts=THRICE),
    Row("endless@0.01", "event 504", "504", "event 504"),
    Row("flapping@600", "502", "502", attempts=THRICE),
    Row("no-done", "ok", "ok"),
    Row("split-utf8", "ok", "ok"),
    Row("comments", "ok", "ok"),
    Row("big-event", "ok", "ok"),
]


def sentence(name: str) -> str:
    """What a fault does, from its docstring."""
    return (FAULTS[name].__doc__ or "").strip().rstrip(".")


def markdown() -> str:
    """The table as it stands in the documentation."""
    head = "| the upstream | | stream | whole | stream, with a fallback | whole, with a fallback |"
    lines = [head, "|---|---|---|---|---|---|"]
    for row in ROWS:
        cells = (row.stream, row.whole, row.stream_next, row.whole_next)
        lines.append(f"| `{row.name}` | {sentence(row.name)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rendered(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{markdown()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
