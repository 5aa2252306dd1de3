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


def be_the_only_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without those that pytest adds before each test."""
    ours = [one for one in logs.log.handlers if isinstance(one, logs.LineHandler)]
    monkeypatch.setattr(logs.log, "handlers", ours)


def events(stream: io.StringIO) -> list[object]:
    return [line["event"] for line in lines(stream)]


async def test_lines_are_written_soon_and_in_order(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log record does not overtake them."""
    be_the_only_handler(monkeypatch)
    write(Line(event="1"))
    logs.write_line(logging.getLogger(logs.ACCESS_LOGGER), Line(event="2"))
    logs.log.warning('{"event": "3"}')
    assert events(log_stream) == ["1", "2", "3"]

    for event in "45":
        write(Line(event=event))
        with anyio.fail_after(60):
            while event not in events(log_stream):
                await anyio.lowlevel.checkpoint()
    assert events(log_stream) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_lines_may_wait_for_others(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever ends need not wait for that."""
    logs.set_up_logging(log_stream, wait=60)
    be_the_only_handler(monkeypatch)
    write(Line(event="1"))
    await anyio.lowlevel.checkpoint()
    write(Line(event="2"))
    assert events(log_stream) == []

    logs.flush()
    assert events(log_stream) == ["1", "2"]


async def test_a_level_that_has_changed_holds_from_the_next_write_on(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then what was asked of a logger is remembered."""
    be_the_only_handler(monkeypatch)
    write(Line(event="1"))
    logs.flush()
    logs.log.setLevel(logging.ERROR)
    try:
        write(Line(event="2"))
    finally:
        logs.log.setLevel(logging.INFO)
    logs.flush()

    assert events(log_stream) == ["1"]


def test_lines_of_a_loop_that_ended_are_not_lost(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written with the next ones, or as the process ends."""
    be_the_only_handler(monkeypatch)

    async def last() -> None:
        write(Line(event="1"))

    anyio.run(last)
    write(Line(event="2"))

    assert events(log_stream) == ["1", "2"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_second_set_up_loses_nothing(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits goes to the first stream."""
    be_the_only_handler(monkeypatch)
    write(Line(event="1"))
    logs.set_up_logging(io.StringIO())

    assert events(log_stream) == ["1"]


async def test_a_character_that_the_stream_does_not_know_is_escaped(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no line with it."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    logs.set_up_logging(stream)
    be_the_only_handler(monkeypatch)
    for key in ("a", "Zo\xeb \u2028 \U0001f600", "b"):
        write(Line(event="e", key=key))
    logs.flush()

    found = [json.loads(line) for line in raw.getvalue().splitlines()]
    assert [line["key"] for line in found] == ["a", "Zo\xeb \u2028 \U0001f600", "b"]


async def test_a_stream_that_fails_is_told_of_and_fails_nobody(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk is no request's fault."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left on device")

    logs.set_up_logging(Full())
    be_the_only_handler(monkeypatch)
    write(Line(event="1"))
    logs.flush()

    assert "no space left" in capsys.readouterr().err


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


async def test_a_handler_that_was_just_added_misses_nothing(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though lines went past it a moment ago."""
    be_the_only_handler(monkeypatch)
    access, mine = logging.getLogger(logs.ACCESS_LOGGER), io.StringIO()
    handler = logging.StreamHandler(mine)
    logs.write_line(access, Line(event="1"))
    for logger in (access, logs.log):
        logger.addHandler(handler)
        logs.write_line(access, Line(event="2"))
        logger.removeHandler(handler)

    assert mine.getvalue().count('"event":"2"') == 2
    assert events(log_stream) == ["1", "2", "2"]


def test_a_logger_with_a_handler_of_its_own_gives_it_the_lines(
    log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where nothing is handed up, ours gets none."""
    be_the_only_handler(monkeypatch)
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
