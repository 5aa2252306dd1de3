"""Retry-After: when an upstream wants to be asked again, in all the forms that it may say so.

Source   RFC 9110, 10.2.3 (seconds or a date). Milliseconds, as OpenAI and Azure send them:
         openai-python e43b4224, ``_parse_retry_after_header``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from llmgw.asgi import Header

LONGEST = 3600.0  # seconds; an upstream may say more, and is not believed
UNITS = {b"retry-after-ms": 0.001, b"x-ms-retry-after-ms": 0.001, b"retry-after": 1.0}


def retry_after_of(headers: Iterable[Header]) -> float | None:
    """Seconds until a repeat makes sense, from 0 to LONGEST; None when no header says so.

    Milliseconds win over seconds, because they are more exact. A value that cannot be read counts
    as absent.
    """
    found = {name: value for name, value in headers if name in UNITS}
    for name, unit in UNITS.items():
        if name in found:
            seconds = read_number(found[name])
            if seconds is None and name == b"retry-after":
                seconds = read_date(found[name])
            if seconds is not None:
                return min(seconds * unit, LONGEST)
    return None


def read_number(value: bytes) -> float | None:
    """A finite number that is not negative."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def read_date(value: bytes) -> float | None:
    """Seconds until an HTTP date; 0 when it has passed."""
    try:
        date = parsedate_to_datetime(value.decode("latin-1"))
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
