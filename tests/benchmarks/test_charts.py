"""The charts are pictures, whatever the figures are."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from benchmarks import charts

SVG = "{http://www.w3.org/2000/svg}"
VALUES = st.floats(1e-3, 1e6)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)


def size(root: ElementTree.Element) -> tuple[float, float]:
    return float(root.attrib["width"]), float(root.attrib["height"])


@given(NAMES, st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_bars(title: str, rows: list[tuple[str, float]]) -> None:
    """A bar a row, within the picture, the longer the more."""
    root = ElementTree.fromstring(charts.bars(title, rows))
    width, height = size(root)
    found = [one.attrib for one in root.iter(f"{SVG}rect")]

    assert len(found) == len(rows)
    assert all(float(one["x"]) + float(one["width"]) <= width for one in found)
    assert all(float(one["y"]) + float(one["height"]) <= height for one in found)
    lengths = [float(one["width"]) for one in found]
    assert lengths == sorted(lengths)


@given(NAMES, st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8))
def test_points(title: str, rows: list[tuple[float, float]]) -> None:
    """A point a row, within the picture."""
    root = ElementTree.fromstring(charts.points(title, "unit", rows, "note"))
    width, height = size(root)
    found = [one.attrib for one in root.iter(f"{SVG}circle")]

    assert len(found) == len(rows)
    assert all(0 <= float(one["cx"]) <= width for one in found)
    assert all(0 <= float(one["cy"]) <= height for one in found)


def test_ours_stand_out() -> None:
    """Both ways of llmgw."""
    rows = [("llmgw", 10.0), ("nginx", 1.0), ("llmgw via LiteLLM", 99.0)]
    root = ElementTree.fromstring(charts.bars("t", rows))

    kinds = [one.attrib["class"] for one in root.iter(f"{SVG}rect")]
    assert kinds == [charts.OTHERS, charts.OURS, charts.OURS]


def test_nothing_is_a_picture_too() -> None:
    """It says so."""
    assert "nothing was measured" in charts.bars("t", [("a", 0.0)])


def test_digits() -> None:
    """As many as say something; powers of ten are written out."""
    assert [charts.shown(value) for value in (1234.5, 12.345, 0.01234)] == [
        *("1,234", "12.3", "0.0123"),
    ]
    assert [charts.ten(power) for power in (6, 0, -2)] == ["1,000,000", "1", "0.01"]
