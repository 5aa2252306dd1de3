"""Every block of README and docs that is fenced ``python`` runs; every ``example`` passes.

A block that needs a server, a key or the network is fenced ``python no-run``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SKIPPED = re.compile(r"^```python no-run\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {str(page.relative_to(ROOT)): page for page in FILES if page.is_file()}


@pytest.mark.parametrize("page", PAGES)
async def test_page(page: str) -> None:
    """The page's blocks run in one namespace, and its example() after them."""
    names: dict[str, Any] = {"__name__": "docs"}
    code = "\n".join(BLOCK.findall(PAGES[page].read_text()))
    exec(compile(code, page, "exec"), names)
    if "example" in names:
        await names["example"]()


@pytest.mark.parametrize("page", PAGES)
def test_blocks_that_do_not_run_are_python(page: str) -> None:
    """A block that is not run can at least be compiled."""
    for code in SKIPPED.findall(PAGES[page].read_text()):
        compile(code, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link names a file that is there."""
    links = [link for link in LINK.findall(PAGES[page].read_text()) if "://" not in link]
    missing = [link for link in links if not (PAGES[page].parent / link).exists()]

    assert not missing
