"""Relay: the state of one answer on its way from an upstream to the client. Pure; no I/O, no clock.

    WAITING --content--> BEGUN --all choices finished--> COMPLETE --[DONE] or end--> DONE

An error, a malformed event, or an end before COMPLETE: FAILED.

Nothing is given out while WAITING: an upstream that fails then is a retry or a fallback. What
failed after that is in ``error``, and whoever drives the relay sends what it was given first, then
raises it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from llmgw import errors
from llmgw.errors import GatewayError, ProviderUnavailableError
from llmgw.exchange import Attempt, Usage
from llmgw.wire import DONE, Call, Event, read_event, read_word

CHARACTERS = 4  # bytes of JSON text a token, for estimates: OpenAI's rule of thumb for English
STATUSES = frozenset({*range(400, 600), *map(str, range(400, 600))})  # an in-band error has both


class State(enum.Enum):
    """Where an answer is."""

    WAITING = "waiting"
    BEGUN = "begun"
    COMPLETE = "complete"
    DONE = "done"
    FAILED = "failed"


class ErrorShape(msgspec.Struct):
    """What is read of an in-band error."""

    message: object = None
    code: object = None
    status: object = None


class Relay(msgspec.Struct, eq=False):
    """Follow one answer: what to send on, whether it is complete, and what was learnt of it."""

    call: Call
    provider: str
    state: State = State.WAITING
    complete: bool = False  # every choice has its finish reason
    ended: bool = False  # nothing more will be given out
    error: GatewayError | None = None
    id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    reasons: dict[int, str | None] = {}  # msgspec gives each its own
    events: int = 0  # with content
    held: list[bytes] = []

    @property
    def begun(self) -> bool:
        """Whether anything has been given out."""
        return self.events > 0

    def feed(self, payloads: Sequence[bytes]) -> list[bytes]:
        """The payloads that the client is to get now; none have come: the upstream has ended.

        ``error`` is set when the stream failed.
        """
        given: list[bytes] = []
        if not payloads:
            self.end()
        if self.ended:
            return given
        for payload in payloads:
            if self.state is State.BEGUN:
                said = read_word(payload, self.reasons)
                if said is not None:
                    self.events += said
                    given.append(payload)
                    continue
            if payload == DONE:
                if self.reasons and all(self.reasons.values()):
                    self._reach(State.COMPLETE)  # also where the upstream gave fewer than ``n``
                self.end()
                break
            event = self._read(payload)
            if event is None:
                break
            self._note(event)
            if event.usage and not event.choices and not self.call.include_usage:
                continue  # asked for by us, not by the client
            if not self.events:
                self.held.append(payload)
                continue
            if self.held:
                given, self.held = self.held, []
            given.append(payload)
        return given

    def whole(self, payload: bytes) -> bytes:
        """The answer that came in one piece. Raises when it is none."""
        event = self._read(payload)
        if event is not None:
            self.id, self.model, self.usage = event.id, event.model, event.usage
            self.reasons, self.events = event.choices, int(event.content)
            if not event.choices:
                self._fail("sent an answer without choices")
        if self.error is not None:
            raise self.error
        self._reach(State.DONE)
        return payload

    def end(self) -> None:
        """The upstream has ended: all is there, or the answer was cut."""
        if self.state is State.COMPLETE:
            self._reach(State.DONE)
        elif self.state not in (State.DONE, State.FAILED):
            self._fail("ended its answer before it was complete", code="upstream_truncated")

    def report(self, attempt: Attempt) -> None:
        """Write what was learnt into the Attempt; usage that nobody told is estimated."""
        attempt.response_id, attempt.model = self.id, self.model
        attempt.finish_reasons = tuple(filter(None, self.reasons.values()))
        attempt.usage = self.usage or (self._estimate() if self.begun else None)

    def _read(self, payload: bytes) -> Event | None:
        try:
            event = read_event(payload)
        except msgspec.DecodeError:
            self._fail("sent a malformed event", code="upstream_malformed")
            return None
        if event.error is not None:
            self._fail_in_band(event.error)
            return None
        return event

    def _note(self, event: Event) -> None:
        self.events += event.content
        self.id, self.model = self.id or event.id, self.model or event.model
        self.usage = event.usage or self.usage
        for index, reason in event.choices.items():
            self.reasons[index] = reason or self.reasons.get(index)
        if self.begun and self.state is State.WAITING:
            self._reach(State.BEGUN)
        finished = sum(reason is not None for reason in self.reasons.values())
        if self.state is State.BEGUN and finished >= max(self.call.choices, len(self.reasons)):
            self._reach(State.COMPLETE)

    def _reach(self, state: State) -> None:
        self.state = state
        self.complete = state in (State.COMPLETE, State.DONE)
        self.ended = state in (State.DONE, State.FAILED)

    def _fail(self, what: str, code: str | None = None) -> None:
        self._reach(State.FAILED)
        text = f"{self.provider} {what}."
        self.error = ProviderUnavailableError(text, provider=self.provider, code=code)

    def _fail_in_band(self, data: bytes) -> None:
        self._reach(State.FAILED)
        try:
            shape = msgspec.json.decode(data, type=ErrorShape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            shape = ErrorShape()
        found = [value for value in (shape.status, shape.code) if isinstance(value, int | str)]
        status = next((int(value) for value in found if value in STATUSES), 502)
        self.error = errors.from_status(
            status,
            provider=self.provider,
            message=shape.message,
            code=shape.code,
        )

    def _estimate(self) -> Usage:
        prompt = self.call.size // CHARACTERS
        return Usage(prompt, self.events, prompt + self.events, estimated=True)
