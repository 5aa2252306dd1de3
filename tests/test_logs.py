"""Logs: one JSON object a line, in order, whoever writes them."""

from __future__ import annotations

import io
import json
import logging

import anyio.lowlevel
import pytest

from llmgw import logs
from llmgw.logs import Line


def write(line: Line) -> None:
    logs.write_line(logs.log, line)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object(log_stream: io.StringIO) -> None:
    """Event and time are always there, a field that is None is not, and a line break is escaped."""
    write(Line(event="e", model="x\ny", key=None))

    [line] = lines(log_stream)
    assert line.pop("time")
    assert line == {"event": "e", "model": "x\ny"}


def test_second_set_up_replaces_the_first(log_stream: io.StringIO) -> None:
    """A line is never written twice."""
    other = io.StringIO()
    logs.set_up_logging(other)

    write(Line(event="e"))

    assert log_stream.getvalue() == ""
    assert len(lines(other)) == 1


async def test_lines_of_one_turn_are_written_together(log_stream: io.StringIO) -> None:
    """In order; a log record does not overtake them."""
    write(Line(event="1"))
    write(Line(event="2"))
    logs.log.warning('{"event": "3"}')
    write(Line(event="4"))
    await anyio.lowlevel.checkpoint()
    write(Line(event="5"))
    await anyio.lowlevel.checkpoint()

    assert [line["event"] for line in lines(log_stream)] == ["1", "2", "3", "4", "5"]


def test_lines_of_a_loop_that_ended_are_not_lost(log_stream: io.StringIO) -> None:
    """They are written with the next ones, or as the process ends."""

    async def last() -> None:
        write(Line(event="1"))

    anyio.run(last)
    write(Line(event="2"))

    assert [line["event"] for line in lines(log_stream)] == ["1", "2"]


def test_other_handlers_get_the_lines_too(
    log_stream: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """As log records: somebody may send them elsewhere."""
    logs.log.addHandler(caplog.handler)
    try:
        write(Line(event="e"))
    finally:
        logs.log.removeHandler(caplog.handler)

    assert len(lines(log_stream)) == 1
    assert '"event":"e"' in caplog.text


def test_a_logger_with_a_handler_of_its_own_gives_it_the_lines(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where nothing is handed up, ours gets none."""
    alone = [one for one in logs.log.handlers if isinstance(one, logs.LineHandler)]
    monkeypatch.setattr(logs.log, "handlers", alone)  # without pytest's
    access, mine = logging.getLogger(logs.ACCESS_LOGGER), io.StringIO()
    handler = logging.StreamHandler(mine)
    access.addHandler(handler)
    access.propagate = False
    try:
        logs.write_line(access, Line(event="x"))
    finally:
        access.propagate = True
        access.removeHandler(handler)

    assert '"event":"x"' in mine.getvalue()
    assert not log_stream.getvalue()


def test_a_stream_that_was_closed_is_no_error(log_stream: io.StringIO) -> None:
    """As a process ends, its output may be gone."""
    log_stream.close()
    write(Line(event="e"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [("plain", "plain"), (None, None), ("a\nb", "a\\nb"), ("x" * 300, "x" * 200), ("ü", "\\xfc")],
)
def test_bounded_text_is_short_and_printable(text: str | None, kept: str | None) -> None:
    """What a client chose can neither break a line nor fill a disk."""
    assert logs.bounded(text) == kept
