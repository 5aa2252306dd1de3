"""Figures: percentiles, medians and straight lines. Pure: numbers in, numbers out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies; between two, in proportion."""
    found = sorted(values)
    at = share * (len(found) - 1)
    low = int(at)
    high = min(low + 1, len(found) - 1)
    return found[low] + (found[high] - found[low]) * (at - low)


def summary(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """The median and the range."""
    return {
        "median": round(statistics.median(values), digits),
        "low": round(min(values), digits),
        "high": round(max(values), digits),
    }


@attrs.frozen
class Line:
    """A straight line through points; ``off``: how far the farthest is, as a share of itself."""

    slope: float
    start: float
    off: float


def line_of(points: Sequence[tuple[float, float]]) -> Line:
    """The line whose relative errors are the least: small and large points count alike.

    Weighted least squares with weights 1/y²; the x must differ and the y be positive.
    """
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    above = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True))
    below = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = above / below
    start = mean_y - slope * mean_x
    return Line(slope, start, max(abs(start + slope * x - y) / y for x, y in points))
