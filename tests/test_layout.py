"""The house rules that no tool checks by itself."""

from __future__ import annotations

import configparser
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmgw

ROOT = Path(__file__).parent.parent
PACKAGE = Path(llmgw.__file__).parent
CARD = ["Reads", "Writes", "Raises", "Place", "Source"]
LAYERS = sorted(path.stem for path in (PACKAGE / "middlewares").glob("[!_]*.py"))
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(llmgw.__path__, "llmgw.")
    if not module.name.endswith("__main__")  # importing it runs the command
)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="archives hold no links")
@pytest.mark.parametrize("folder", ["middlewares", "apps"])
def test_folder_is_linked_into_the_package(folder: str) -> None:
    """In a checkout llmgw/<folder> is the top-level folder, not a copy or a text file."""
    assert (ROOT / "llmgw" / folder).is_symlink()
    assert os.path.samefile(ROOT / "llmgw" / folder, ROOT / folder)


@pytest.mark.parametrize("folder", ["middlewares", "apps"])
def test_folder_cannot_be_imported_by_its_own_name(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file is one module: ``middlewares.x`` beside ``llmgw.middlewares.x`` is refused."""
    monkeypatch.syspath_prepend(PACKAGE)

    with pytest.raises(ImportError, match=f"import llmgw.{folder}"):
        importlib.import_module(folder)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_has_its_card_and_its_tests(name: str) -> None:
    """Every layer says what it reads, writes, raises and where it stands."""
    card = importlib.import_module(f"llmgw.middlewares.{name}").__doc__ or ""

    assert [word for word in CARD if f"\n{word}" in card] == CARD
    assert (ROOT / "tests" / "middlewares" / f"test_{name}.py").is_file()


def test_every_module_stands_on_a_floor() -> None:
    """What lies in llmgw/ is named in the layers contract, so that its imports are checked."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    floors = re.findall(r"\w+", contracts["importlinter:contract:floors"]["layers"])

    assert {name.split(".")[1] for name in MODULES} <= set(floors)


@pytest.mark.parametrize("name", MODULES)
def test_module_can_be_imported(name: str) -> None:
    """Also those that the suite needs nowhere else, so that coverage sees them."""
    assert importlib.import_module(name).__doc__


def test_the_package_names_what_it_exports() -> None:
    """Every public name is in __all__ and exists."""
    assert all(hasattr(llmgw, name) for name in llmgw.__all__)


def test_import_is_light() -> None:
    """A service that embeds one layer pays neither for LiteLLM nor for a server."""
    heavy = {"litellm", "starlette", "uvicorn"}
    program = f"import llmgw, sys; print(*sorted({heavy} & set(sys.modules)))"

    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60
    )

    assert found.stdout.split() == []
