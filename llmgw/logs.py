"""Logs: JSON lines, what is in them, and the handler that writes them.

Nothing written here holds a prompt, an answer, a key, a query string or a foreign exception's text.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from contextlib import nullcontext
from contextvars import Context
from datetime import UTC, datetime
from typing import TextIO

import msgspec

LOGGER, ACCESS_LOGGER = "llmgw", "llmgw.access"
SOON = 0.02  # seconds that a server lets its lines wait for others; chosen
WORD_LIMIT = 200  # characters of anything a client chose, in logs and spans; as wire's model names

log = logging.getLogger(LOGGER)


def bounded(text: str | None) -> str | None:
    """At most WORD_LIMIT characters, those that could break a line or a terminal escaped."""
    if text is None or (len(text) <= WORD_LIMIT and text.isascii() and text.isprintable()):
        return text
    return text[:WORD_LIMIT].encode("unicode_escape").decode("ascii")[:WORD_LIMIT]


class Line(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line: one JSON object of the fields that are not None. A Struct costs a third of a dict."""

    event: str
    time: datetime = msgspec.field(default_factory=functools.partial(datetime.now, UTC))
    request_id: str | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    duration_ms: float | None = None
    outcome: str | None = None
    model: str | None = None
    stream: bool | None = None
    provider: str | None = None
    key: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reasons: tuple[str, ...] | None = None
    error_type: str | None = None
    error_code: str | None = None


_encoder = msgspec.json.Encoder()


def write_line(logger: logging.Logger, line: Line) -> None:
    """Log a line; to our own stream without a log record, which costs 10 us."""
    alone = _ours and log.handlers == _ours and (logger is log or not logger.handlers)
    if alone and logger in _known:
        return _ours[0].write(line)
    if not logger.isEnabledFor(logging.INFO):
        return
    if alone and (logger is log or logger.propagate) and not logger.filters:
        _known.add(logger)
        _ours[0].write(line)
    else:
        logger.info("%s", _encoder.encode(line).decode())


class LineHandler(logging.StreamHandler[TextIO]):
    """Ours: lines go past the formatter, and on asyncio those of ``wait`` seconds in one write.

    A write costs 10 to 20 us, and a request that takes its time would need two.
    """

    def __init__(self, stream: TextIO, wait: float) -> None:
        super().__init__(stream)
        self.wait = wait
        self._lines: list[Line] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # that will write

    def write(self, line: Line) -> None:
        """Write a line, in ``wait`` seconds; where there is no such loop, at once."""
        self._lines.append(line)
        loop = self._loop
        if loop is not None and loop.is_running():
            return
        try:
            loop = self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.flush()
        # in no context: a timer must not keep a request's variables
        loop.call_later(self.wait, self._ring, context=Context())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record after the lines that came before it."""
        self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write what waits; logging does so when the process ends."""
        _known.clear()
        with self.lock or nullcontext():
            lines = self._lines[:]
            del self._lines[: len(lines)]  # another thread may add to the list meanwhile
            try:
                if lines:
                    self._put(_encoder.encode_lines(lines).decode())
                self.stream.flush()
            except (OSError, ValueError):  # a full disk is no request's fault
                if not self.stream.closed:  # it is, as a process ends
                    self.handleError(logging.makeLogRecord({"msg": "log lines were lost"}))

    def _put(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:  # JSON needs no more than ASCII
            lines = [json.dumps(json.loads(line)) for line in text.split("\n") if line]
            self.stream.write("\n".join([*lines, ""]))

    def _ring(self) -> None:
        self._loop = None
        self.flush()


_ours: list[LineHandler] = []  # what log.handlers is as long as nobody has changed it
_known: set[logging.Logger] = set()  # whose level and filters were asked since the last write


def set_up_logging(stream: TextIO, *, wait: float = 0.0) -> None:
    """Write what the toolkit logs to ``stream``, a message a line. A second call replaces it.

    On asyncio lines may ``wait`` so many seconds for others, by default until the loop's next turn;
    who lets them wait calls ``flush`` at the end. A process that is killed loses what waits.
    """
    for handler in [one for one in log.handlers if isinstance(one, LineHandler)]:
        handler.flush()
        log.removeHandler(handler)
    _ours[:] = [LineHandler(stream, wait)]
    log.addHandler(_ours[0])
    log.setLevel(logging.INFO)
    log.propagate = False


def flush() -> None:
    """Write what waits, as a server does at its end."""
    for handler in _ours:
        handler.flush()
