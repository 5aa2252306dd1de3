"""What must come of every fault of the wall: the law of the stream and of failure, as one table.

``python -m tests.faults`` writes it into docs/reliability.md; a test sees that it stands there.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from tests.upstreams.wall import FAULTS

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"

# The clocks of the gateway under test, in seconds
FIRST_TOKEN, IDLE, ANSWER, TOTAL, BACKOFF = 0.8, 0.8, 1.0, 3.0, 0.05
SETTINGS = f"""
[retry]
backoff_s = {BACKOFF}

[timeouts]
first_token_s = {FIRST_TOKEN}
idle_s = {IDLE}
answer_s = {ANSWER}
total_s = {TOTAL}
"""
FAST = 2.5  # seconds for a failure and its retries beside waits, on a busy machine
ONCE = 1.5  # seconds for a limited deployment when there is another, likewise


@attrs.frozen
class Row:
    """A fault and its outcomes: ``ok``, a status, or ``event STATUS`` for an error in the stream.

    ``stream`` and ``whole``: without another deployment; ``stream_next``, ``whole_next``: with one.
    ``wait``: seconds that the upstream is waited for, in the order of the four.
    """

    model: str
    stream: str
    whole: str
    stream_next: str = "ok"
    whole_next: str = "ok"
    wait: tuple[float, float, float, float] = (0, 0, 0, 0)

    @property
    def name(self) -> str:
        """The fault's name."""
        return self.model.partition("@")[0]


SILENT = (FIRST_TOKEN, ANSWER, FIRST_TOKEN, ANSWER)
ROWS = [
    Row("well", "ok", "ok"),
    Row("429", "429", "429"),
    Row("429-after@2", "429", "429", wait=(2, 2, 0, 0)),
    Row("500-once", "ok", "ok"),
    Row("503", "502", "502"),
    Row("401", "401", "401"),
    Row("400-context", "400", "400"),
    Row("400-content", "400", "400", "400", "400"),
    Row("html", "502", "502"),
    Row("html-502", "502", "502"),
    Row("reset-before-headers", "502", "502"),
    Row("silence", "504", "504", wait=SILENT),
    Row("headers-then-silence", "504", "504", wait=SILENT),
    Row("never-content", "504", "504", wait=SILENT),
    Row("slow-first@0.3", "ok", "ok", wait=(0.3, 0.3, 0.3, 0.3)),
    Row("cut-fin", "event 502", "502", "event 502"),
    Row("cut-rst", "event 502", "502", "event 502"),
    Row("eof-clean", "event 502", "502", "event 502"),
    Row("half-event", "event 502", "502", "event 502"),
    Row("wrong-length", "event 502", "502", "event 502"),
    Row("stall", "event 504", "504", "event 504", wait=(IDLE, ANSWER, IDLE, ANSWER)),
    Row("malformed", "event 502", "502", "event 502"),
    Row("malformed-first", "502", "502"),
    Row("error-first", "502", "502"),
    Row("error-mid", "event 502", "502", "event 502"),
    Row("empty", "502", "502"),
    Row("endless@0.01", "event 504", "504", "event 504", wait=(TOTAL, ANSWER, TOTAL, ANSWER)),
    Row("flapping@60", "502", "502"),
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
