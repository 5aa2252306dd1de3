"""relay: one answer, one end; nothing before its first content, nothing after a failure."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw import errors
from llmgw.errors import GatewayError, InvalidRequestError, ProviderUnavailableError
from llmgw.exchange import Attempt, Usage
from llmgw.relay import Relay, State
from llmgw.wire import DONE, read_call


def chunk(*choices: object, **rest: object) -> bytes:
    """A chunk of a stream."""
    return json.dumps({"id": "c1", "model": "real", "choices": choices, **rest}).encode()


def delta(reason: str | None = None, index: int = 0, **said: object) -> bytes:
    """A chunk with one choice."""
    return chunk({"index": index, "delta": said, "finish_reason": reason})


def new_relay(**request: object) -> Relay:
    """A relay of a streaming call."""
    messages = [{"role": "user", "content": "hello"}]
    fields = {"model": "m", "messages": messages, "stream": True, **request}
    return Relay(read_call(json.dumps(fields).encode()), "acme")


ROLE = delta(role="assistant", content="")
A, B = delta(content="a"), delta(content="b")
STOP = delta("stop")
TOKENS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
USAGE = chunk(usage=TOKENS)
AZURE = b'{"choices":[],"id":"","model":"","prompt_filter_results":[{"prompt_index":0}]}'
ERROR = b'{"error":{"message":"secret words","code":"boom"}}'
BROKEN = b'{"choices":'
WITH_USAGE = {"stream_options": {"include_usage": True}}


def failure(relay: Relay) -> GatewayError:
    """The error of a relay that failed."""
    assert relay.state is State.FAILED
    assert relay.error is not None
    return relay.error


def test_nothing_is_given_before_content() -> None:
    """The role and Azure's filter results wait, and come first once there is content."""
    relay = new_relay()
    assert relay.feed([AZURE]) == relay.feed([ROLE]) == []
    assert (relay.state, relay.begun) == (State.WAITING, False)
    assert relay.feed([A]) == [AZURE, ROLE, A]
    assert (relay.state, relay.begun) == (State.BEGUN, True)
    assert relay.feed([B]) == [B]


def test_held_events_come_first_within_one_feed() -> None:
    """The order of the upstream holds however its events come together."""
    assert new_relay().feed([ROLE, A, B]) == [ROLE, A, B]


def test_a_whole_stream_is_done() -> None:
    """All finish reasons and [DONE]: done, without an error, [DONE] itself not given out."""
    relay = new_relay()
    assert relay.feed([ROLE, A, STOP]) == [ROLE, A, STOP]
    assert (relay.state, relay.complete, relay.ended) == (State.COMPLETE, True, False)
    assert relay.feed([DONE, A]) == []
    assert (relay.state, relay.complete, relay.ended) == (State.DONE, True, True)
    assert relay.error is None


def test_a_finish_reason_alone_is_an_answer() -> None:
    """An upstream may have nothing to say."""
    relay = new_relay()
    assert relay.feed([ROLE, STOP, DONE]) == [ROLE, STOP]
    assert relay.state is State.DONE


def test_finish_without_done_is_complete() -> None:
    """Every choice finished and then the end of the stream: nothing is missing."""
    relay = new_relay()
    relay.feed([A, STOP])
    relay.end()
    assert (relay.state, relay.error) == (State.DONE, None)


@pytest.mark.parametrize("events", [[], [ROLE], [A], [ROLE, A, B], [USAGE], [A, USAGE]])
@pytest.mark.parametrize("by_done", [True, False])
def test_an_answer_without_its_finish_reason_was_cut(events: list[bytes], by_done: bool) -> None:
    """With [DONE] or without: it is never a success."""
    relay = new_relay()
    relay.feed(events)
    if by_done:
        relay.feed([DONE])
    else:
        relay.end()
    error = failure(relay)
    assert isinstance(error, ProviderUnavailableError)
    assert (error.code, error.provider, relay.complete) == ("upstream_truncated", "acme", False)


def test_an_empty_finish_reason_ends_nothing() -> None:
    """Some vendors send "" on every chunk."""
    relay = new_relay()
    assert relay.feed([delta("", content="a"), delta("", content="b")])
    assert relay.state is State.BEGUN


@pytest.mark.parametrize("asked", [True, False])
def test_usage_goes_to_those_who_asked(asked: bool) -> None:
    """The usage event is withheld iff the client did not ask for it; it is learnt either way."""
    relay = new_relay(**(WITH_USAGE if asked else {}))
    given = relay.feed([A, STOP, USAGE, DONE])
    assert given == ([A, STOP, USAGE] if asked else [A, STOP])
    assert (relay.usage, relay.state) == (Usage(3, 2, 5), State.DONE)


def test_usage_beside_a_choice_is_never_withheld() -> None:
    """An event that also says something goes out whole."""
    both = chunk({"index": 0, "delta": {}, "finish_reason": "stop"}, usage=TOKENS)
    relay = new_relay()
    assert relay.feed([A, both]) == [A, both]
    assert relay.usage == Usage(3, 2, 5)


@pytest.mark.parametrize("bad", [BROKEN, b"<html>", b"{}", b"\xff", b"[" * 500_000])
def test_a_malformed_event_fails(bad: bytes) -> None:
    """Before content nothing goes out; after it, what was good goes out first."""
    early = new_relay()
    assert early.feed([ROLE, bad, A]) == []
    assert failure(early).code == "upstream_malformed"
    late = new_relay()
    assert late.feed([ROLE, A, bad, B]) == [ROLE, A]
    assert failure(late).code == "upstream_malformed"
    assert late.feed([B]) == []


def test_a_malformed_event_after_completion_fails_too() -> None:
    """Complete is not yet done."""
    relay = new_relay()
    assert relay.feed([A, STOP, BROKEN]) == [A, STOP]
    assert failure(relay).code == "upstream_malformed"


def test_in_band_errors() -> None:
    """They fail the answer wherever they come, in our words; what was good goes out first."""
    for before, good in (([ROLE], []), ([ROLE, A], [ROLE, A])):
        relay = new_relay()
        assert relay.feed([*before, ERROR, B]) == good
        error = failure(relay)
        assert (type(error), error.status) == (ProviderUnavailableError, 502)
        assert "secret" not in error.message
        assert relay.begun is bool(good)


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"code": 429, "message": "slow"}, errors.RateLimitError, 429),
        ({"code": "429"}, errors.RateLimitError, 429),
        ({"status": 400, "code": "bad", "message": "too long"}, InvalidRequestError, 400),
        ({"code": 401}, errors.AuthError, 401),
        ({"code": 503}, ProviderUnavailableError, 502),
        ({"code": 200}, ProviderUnavailableError, 502),
        ({"code": True}, ProviderUnavailableError, 502),
        ({"code": "9" * 5000}, ProviderUnavailableError, 502),
        ({"code": "٤٢٩"}, ProviderUnavailableError, 502),
        ({"code": [429]}, ProviderUnavailableError, 502),
        ("overloaded", ProviderUnavailableError, 502),
        ([], ProviderUnavailableError, 502),
        (False, ProviderUnavailableError, 502),
    ],
)
def test_in_band_errors_by_their_status(
    error: object, kind: type[GatewayError], status: int
) -> None:
    """A status in the error, number or text, decides; the rest is the provider's fault."""
    relay = new_relay()
    relay.feed([json.dumps({"error": error}, ensure_ascii=False).encode()])
    found = failure(relay)
    assert (type(found), found.status, found.provider) == (kind, status, "acme")


def test_an_error_beyond_all_numbers_is_one() -> None:
    """Not even its code can break the relay."""
    for code in (b"9" * 6000, b"1e999", b'"\\ud800"'):
        relay = new_relay()
        relay.feed([b'{"error":{"code":' + code + b"}}"])
        assert isinstance(failure(relay), ProviderUnavailableError)


def test_every_choice_must_finish() -> None:
    """With n=2 one finished choice is half an answer."""
    relay = new_relay(n=2)
    relay.feed([A, STOP])
    assert not relay.complete
    relay.feed([delta("length", index=1)])
    assert relay.state is State.COMPLETE
    attempt = Attempt()
    relay.report(attempt)
    assert attempt.finish_reasons == ("stop", "length")


def test_a_missing_choice_at_the_end_was_cut() -> None:
    """The stream's end before the second choice is a cut."""
    relay = new_relay(n=2)
    relay.feed([A, STOP])
    relay.end()
    assert failure(relay).code == "upstream_truncated"


def test_upstreams_that_know_no_n_may_say_done() -> None:
    """A [DONE] after all choices that were ever begun is a whole answer, even if n was more."""
    relay = new_relay(n=2)
    assert relay.feed([A, STOP, DONE]) == [A, STOP]
    assert relay.state is State.DONE
    half = new_relay(n=2)
    half.feed([A, delta(index=1, content="x"), STOP, DONE])
    assert failure(half).code == "upstream_truncated"


def test_an_unasked_second_choice_must_finish_too() -> None:
    """What was begun before completion has to end, asked for or not."""
    relay = new_relay()
    relay.feed([A, delta(index=1, content="x"), STOP])
    assert not relay.complete
    relay.end()
    assert relay.state is State.FAILED


WHOLE = chunk(
    {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"},
    usage=TOKENS,
)


def test_whole() -> None:
    """An answer in one piece goes out as it came, and is learnt from."""
    relay, attempt = new_relay(stream=False), Attempt()
    assert relay.whole(WHOLE) is WHOLE
    assert relay.state is State.DONE
    relay.report(attempt)
    assert (attempt.response_id, attempt.model) == ("c1", "real")
    assert (attempt.usage, attempt.finish_reasons) == (Usage(3, 2, 5), ("stop",))


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (BROKEN, "upstream_malformed"),
        (b"", "upstream_malformed"),
        (b"<html>", "upstream_malformed"),
        (USAGE, "provider_unavailable"),
        (ERROR, "provider_unavailable"),
    ],
)
def test_whole_raises_what_is_no_answer(payload: bytes, code: str) -> None:
    """Garbage, an error with status 200, an answer without choices."""
    relay = new_relay(stream=False)
    with pytest.raises(ProviderUnavailableError) as caught:
        relay.whole(payload)
    assert caught.value is relay.error
    assert (caught.value.code, relay.state) == (code, State.FAILED)


def test_usage_is_estimated_and_marked() -> None:
    """Where the upstream told none: a token an event, four bytes of messages a token."""
    relay, attempt = new_relay(), Attempt()
    relay.feed([ROLE, A, B])
    relay.report(attempt)
    prompt = len(json.dumps([{"role": "user", "content": "hello"}])) // 4
    assert attempt.usage == Usage(prompt, 2, prompt + 2, estimated=True)
    early = Attempt()
    new_relay().report(early)
    assert early.usage is None


EVENTS = st.lists(
    st.sampled_from([ROLE, A, B, STOP, delta("stop", index=1), USAGE, AZURE, ERROR, BROKEN, DONE]),
    max_size=12,
)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[bytes], list[list[bytes]]]:
    """A sequence of events, and the same cut into feeds."""
    events = draw(EVENTS)
    feeds: list[list[bytes]] = []
    at = 0
    while at < len(events):
        size = draw(st.integers(1, len(events) - at))
        feeds.append(events[at : at + size])
        at += size
    return events, feeds


def drive(relay: Relay, feeds: Sequence[list[bytes]]) -> list[bytes]:
    """What the client gets of a run to its end."""
    given: list[bytes] = []
    for feed in feeds:
        over = relay.ended
        new = relay.feed(feed)
        assert not (over and new), "given out after the end"
        given += new
        assert bool(given) == relay.begun
        assert (relay.error is not None) == (relay.state is State.FAILED)
    relay.end()
    return given


@given(runs(), st.booleans(), st.integers(1, 2))
def test_every_run_has_one_end(
    run: tuple[list[bytes], list[list[bytes]]], asked: bool, n: int
) -> None:
    """Any events, cut in any way, end as done or failed and give out the same, in order."""
    events, feeds = run
    relay = new_relay(n=n, **(WITH_USAGE if asked else {}))
    given_ = drive(relay, feeds)
    assert relay.ended
    assert (relay.state is State.DONE) == (relay.error is None) == relay.complete
    assert relay.feed([A]) == []
    whole = new_relay(n=n, **(WITH_USAGE if asked else {}))
    assert drive(whole, [events]) == given_
    assert whole.state is relay.state

    stops = [events.index(one) for one in (ERROR, BROKEN, DONE) if one in events]
    good = events[: min(stops, default=len(events))]
    want = [event for event in good if asked or event != USAGE]
    spoke = any(event not in (ROLE, USAGE, AZURE) for event in good)
    assert given_ == (want if spoke else [])
    if relay.state is State.DONE:
        assert STOP in good or delta("stop", index=1) in good
