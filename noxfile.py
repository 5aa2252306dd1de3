"""Every check of the house, one session each: ``nox`` runs what CI runs."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "type-check", "test", "package"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
PACKAGES = ["llmgw", "middlewares", "apps"]
# A process for each core, at most four; the tests of one file, and so its servers, stay together.
PARALLEL = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]
LITTER = [
    *(".coverage*", ".hypothesis", ".import_linter_cache", ".mypy_cache", ".nox"),
    *(".pytest_cache", ".ruff_cache", "dist", "htmlcov"),
    *(f"{folder}/**/__pycache__" for folder in (*PACKAGES, "tests", "docs", "benchmarks")),
]


def group(name: str) -> list[str]:
    """The requirements of one dependency group of pyproject.toml."""
    return nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), name)


@nox.session
def dev(session: nox.Session) -> None:
    """Serve the checkout and reload it on every change."""
    session.install("-e", ".[gateway]")
    session.run("llmgw", "serve", "--reload", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """The suite on the checkout, both event loops, branch coverage of every process."""
    session.install("-e", ".[gateway]", *group("test"))
    session.run("coverage", "erase")
    if not session.posargs:
        session.log(
            "The whole suite takes about 4 minutes on two cores; pytest shows its progress."
        )
    session.run("coverage", "run", "-m", "pytest", *PARALLEL, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    gate = [] if session.posargs else ["--fail-under=95"]  # a chosen part need not cover the whole
    session.run("coverage", "report", *gate)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def compat(session: nox.Session) -> None:
    """The quick part of the suite on every interpreter that is here."""
    session.install("-e", ".[gateway]", *group("test"))
    session.run("pytest", *PARALLEL, "-m", "not slow and not integration", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Ten thousand requests of random faults: what is left afterwards?"""
    session.install("-e", ".[gateway]", *group("test"))
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """One question of benchmarks/README.md: ``nox -s bench -- layers``."""
    session.install("-e", ".[gateway]", "aiohttp", "trio")
    name, *rest = session.posargs or ["layers"]
    session.run("python", "-m", f"benchmarks.{name}", *rest)


@nox.session
def clients(session: nox.Session) -> None:
    """LangChain, and openai-node where there is a Node, against the gateway and the wall."""
    session.install("-e", ".[gateway]", *group("test"), "langchain-openai")
    session.run("python", "-m", "tests.clients")


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and the import floors."""
    session.install("-e", ".", *group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")  # never "llmgw": ruff does not follow links
    session.run("lint-imports")


@nox.session(name="format")
def format_(session: nox.Session) -> None:
    """Put every file into its form."""
    session.install(*group("lint"))
    session.run("ruff", "check", "--fix-only", ".")
    session.run("ruff", "format", ".")


@nox.session(name="type-check")
def type_check(session: nox.Session) -> None:
    """Two checkers, both strict."""
    session.install("-e", ".[gateway]", *group("types"))
    session.run("mypy")
    session.run("pyright", "--pythonpath", f"{session.bin}/python")


@nox.session
def package(session: nox.Session) -> None:
    """The suite on the wheel built from the sdist, where no checkout can be imported.

    It runs in the unpacked sdist less its packages, so that only the wheel can answer.
    """
    session.install("build", *group("test"))
    work = Path(session.virtualenv.location).resolve() / "dist"
    shutil.rmtree(work, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(work), silent=True)
    (wheel,), (sdist,) = work.glob("*.whl"), work.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    home = work / sdist.name.removesuffix(".tar.gz")
    for name in PACKAGES:
        shutil.rmtree(home / name)
    session.install(f"{wheel}[gateway]")
    session.install("--force-reinstall", "--no-deps", str(wheel))  # same version, new content
    with session.chdir(home):
        # Not "python -m pytest": that imports the folder. The slow part says nothing of a wheel.
        session.run("pytest", *PARALLEL, "-m", "not slow and not integration", *session.posargs)


@nox.session(venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove everything that the other sessions made."""
    for path in [path for pattern in LITTER for path in ROOT.glob(pattern)]:
        session.log(f"removing {path.relative_to(ROOT)}")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
