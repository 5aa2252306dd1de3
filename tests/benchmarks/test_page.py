"""docs/performance.md is what the command makes of the figures, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import options, page, results, tables
from benchmarks.gateway import KINDS
from benchmarks.latency import KINDS as LATENCIES
from benchmarks.options import Options
from llmgw.apps import bench_report
from llmgw.apps.bench import Cost, Costs, Row

RUN = "python -m benchmarks.page"
EMPTY = "".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in page.SECTIONS)


def cpu(value: float, load: float = 0.5) -> dict[str, Any]:
    found = {"median": value, "low": value, "high": value}
    return {"cpu_us": found, "a_second": 1e6 / value, "load_cpu": load}


def layers() -> dict[str, Any]:
    hidden = Cost(None, 9.0)
    rows = [
        Row("Auth", Costs(Cost(2.34, 0.1, 1.5), Cost(None, 0.01, small=True)), Costs(hidden, None)),
        Row("all", Costs(Cost(95.0, 1.0), Cost(4.0, 0.1)), None),
    ]
    report = bench_report.Report(app="x", backend="b", rounds=15, requests=300, rows=rows)
    found: dict[str, Any] = msgspec.json.decode(bench_report.encode(report))
    return found


GATEWAY = {
    "skipped": ["Portkey: not here"],
    "failed": {"TensorZero, paced": "boom"},
    "peers": {"nginx": "1.22.1"},
    "rows": [
        {"name": "nginx", **{kind.name: cpu(20, 1.0) for kind in KINDS}},
        {"name": "llmgw", **{kind.name: cpu(100) for kind in KINDS if not kind.stream}},
    ],
}
LINE = {"slope": 0.002, "start": 100.0, "off": 0.012}
POINTS = {"points": [{"x": 10, "cpu_us": 100.0}, {"x": 1000, "cpu_us": 2000.0}], "line": LINE}
RESULTS: dict[str, dict[str, Any]] = {
    "gateway": GATEWAY,
    "latency": {
        "rows": [{"name": "llmgw", LATENCIES[0].name: {"p50_ms": 0.512, "p99_ms": 1.0}}],
    },
    "memory": {
        "rows": [
            {"name": "llmgw", "idle_mb": 41.5, "loaded_mb": 43.0, "kb_a_stream_of_1000": 17.5},
            {"name": "uvicorn hello", "idle_mb": 30.0, "loaded_mb": 31.0},
        ]
    },
    "start": {
        "rows": [{"name": "llmgw", "first_answer_s": 0.27}],
        "imports_s": {"llmgw": 0.08},
    },
    "slopes": {"rows": [{"name": "llmgw", "bytes": POINTS, "events": POINTS}]},
    "litellm": {
        "rows": [
            {
                "name": "an answer",
                "bare_us": 5000.0,
                "ratio": {"median": 1.05, "low": 1.0, "high": 1.1},
                "added": {"us": None, "spread": 300.0, "ratio": None, "small": False},
            }
        ]
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Figures of every kind."""
    kept = Options(out=tmp_path)
    for name, data in RESULTS.items():
        results.write(name, data, kept)
    for backend in ("asyncio", "uvloop"):
        results.write(f"layers-{backend}", layers(), kept)
    shutil.copy(options.RESULTS / "counts.json", tmp_path)
    return tmp_path


def test_the_page_is_what_the_command_renders() -> None:
    """Of the results that are kept."""
    text = page.PAGE.read_text(encoding="utf-8")

    assert page.rendered(text) == text, RUN


def test_the_charts_are_what_the_command_draws() -> None:
    """Each of them, and no other."""
    made = {name: one.svg for name, one in page.drawn(page.found_in(options.RESULTS)).items()}
    there = {path.name: path.read_text(encoding="utf-8") for path in page.CHARTS.glob("*.svg")}

    assert there == made, RUN


def test_the_page_has_a_place_for_every_section() -> None:
    """A result that nobody shows would be measured in vain."""
    text = page.PAGE.read_text(encoding="utf-8")

    assert [name for name in page.SECTIONS if f"<!-- {name}: begin -->" not in text] == []


def test_every_figure_has_its_cell(folder: Path) -> None:
    """Numbers, what is hidden, what is missing, and what was the load's own limit."""
    text = page.rendered(EMPTY, folder)

    assert "old" not in text
    assert "| Auth | 2.34 / hidden by noise | < 0.05 |" in text
    assert "| all | 95.00 | 4.00 |" in text
    assert "| nginx | 20.0 |" in text
    assert "≥ 50,000" in text
    assert "| llmgw | 100 | 100 |  |  |  |  | 10,000 |" in text
    assert "nginx 1.22.1. Not measured: Portkey; TensorZero, paced." in text
    assert "0.51 / 1.00" in text
    assert "| llmgw | 41.5 | 43.0 | 17.5 |  |" in text
    assert "`import llmgw` 0.08 s" in text
    assert "100 + 2.00 a KB; at most 1.2% off" in text
    assert "| an answer | 5,000 | 1.05 | hidden by noise |" in text
    assert "calls a request" in text


def test_every_chart_is_shown(folder: Path) -> None:
    """In the section that its name begins with."""
    text, made = page.rendered(EMPTY, folder), page.drawn(page.found_in(folder))

    assert {"layers.svg", "gateway-request.svg", "memory.svg", "start.svg"} <= set(made)
    assert all(f"](charts/{name})" in text for name in made)


def test_rendering_again_changes_nothing(folder: Path) -> None:
    """What is there is replaced, not added to."""
    once = page.rendered(EMPTY, folder)

    assert page.rendered(once, folder) == once


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """With the command that measures it; text outside of the markers is kept."""
    text = page.rendered(f"before\n{EMPTY}after\n", tmp_path)

    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "Not measured yet: `python -m benchmarks.gateway`." in text
    assert page.drawn(page.found_in(tmp_path)) == {}


def test_a_number_has_as_many_digits_as_say_something() -> None:
    """None is an empty cell."""
    assert [tables.number(value) for value in (None, 12.34, 1234.5)] == ["", "12.3", "1,234"]


@pytest.mark.parametrize(
    ("argv", "folder"),
    [
        ([], options.RESULTS),
        (["--quick"], None),
        (["llmgw"], None),
        (["--quick", "--out", "x"], Path("x")),
        (["llmgw", "--out", "x"], Path("x")),
    ],
)
def test_only_the_whole_at_full_length_is_kept(
    argv: list[str], folder: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what one asks for by name."""
    monkeypatch.delenv("BENCH_QUICK", raising=False)

    assert options.read(argv).folder == folder


def test_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Names choose; the variable is the flag; a typing error ends."""
    monkeypatch.setenv("BENCH_QUICK", "1")
    found = options.read(["nginx"])

    assert (found.wants("nginx"), found.wants("llmgw")) == (True, False)
    assert found.pick(5, 2) == 2
    with pytest.raises(SystemExit, match="unknown option --quik"):
        options.read(["--quik"])
    results.write("x", {}, found)
    assert "not kept" in capsys.readouterr().out


def test_a_result_knows_where_it_is_from(tmp_path: Path) -> None:
    """Machine, versions, commit; its own names win."""
    results.write("x", {"rows": [], "python": "mine"}, Options(out=tmp_path))
    found = results.read("x", tmp_path)

    assert found is not None
    assert {"commit", "machine", "versions", "cores", "llmgw"} <= set(found)
    assert found["python"] == "mine"
    assert results.read("y", tmp_path) is None


def test_a_table_for_people() -> None:
    """A name and figures, aligned; what is not known is empty."""
    text = results.table(
        [{"name": "llmgw", "x": 1234.5}, {"name": "b"}], [("x", lambda row: row.get("x"))]
    )

    assert text.splitlines() == ["           x", "llmgw  1,234", "b"]
