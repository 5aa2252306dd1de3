"""Retry-After: every form that OpenAI's clients read."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.asgi import Header
from llmgw.retry_after import LONGEST, UNITS, retry_after_of

MS, AZURE, PLAIN = b"retry-after-ms", b"x-ms-retry-after-ms", b"retry-after"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(PLAIN, b"7")], 7.0),
        ([(PLAIN, b" 7 ")], 7.0),
        ([(PLAIN, b"0.5")], 0.5),
        ([(PLAIN, b"0")], 0.0),
        ([(MS, b"1500")], 1.5),
        ([(AZURE, b"250")], 0.25),
        ([(PLAIN, b"9"), (AZURE, b"250"), (MS, b"1500")], 1.5),
        ([(PLAIN, b"9"), (AZURE, b"250")], 0.25),
        ([(PLAIN, b"9"), (MS, b"soon")], 9.0),
        ([(PLAIN, b"Wed, 21 Oct 2015 07:28:00 GMT")], 0.0),
        ([(PLAIN, b"1e9")], LONGEST),
        ([(PLAIN, b"3601")], LONGEST),
        ([(MS, b"1e12")], LONGEST),
        ([(PLAIN, b"Fri, 31 Dec 2999 23:59:59 GMT")], LONGEST),
        ([(PLAIN, b"-1")], None),
        ([(PLAIN, b"nan")], None),
        ([(PLAIN, b"inf")], None),
        ([(PLAIN, b"None")], None),
        ([(PLAIN, b"\xff")], None),
        ([(PLAIN, b"Fri, 99 Dec 9999 99:99:99 GMT")], None),
        ([(PLAIN, b"")], None),
        ([(b"content-type", b"7")], None),
        ([], None),
    ],
)
def test_every_form(headers: list[Header], seconds: float | None) -> None:
    """Milliseconds before seconds before dates, an hour at most; nonsense counts as absent."""
    assert retry_after_of(headers) == seconds


def test_a_date_is_counted_from_now() -> None:
    """As HTTP writes it."""
    date = formatdate(time.time() + 90, usegmt=True).encode()

    seconds = retry_after_of([(PLAIN, date)])

    assert seconds is not None
    assert 20 < seconds <= 90


@given(st.sampled_from(list(UNITS)), st.binary(max_size=40))
def test_whatever_is_sent_is_a_bounded_time_or_nothing(name: bytes, value: bytes) -> None:
    """It never raises."""
    seconds = retry_after_of([(name, value)])

    assert seconds is None or 0 <= seconds <= LONGEST
