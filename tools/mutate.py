"""Mutation tests of the C++ code: makes one-line errors one at a time, and says which of them the tests let pass.

    python tools/mutate.py --seed 1 --count 80           # goes on where the same seed stopped
    python tools/mutate.py --seed 1 --count 80 --list    # what it would draw
    python tools/mutate.py --seed 1 --only 17            # one of them, again

Errors are drawn from the rules of tools/mutations.py, and each area of the sources gets an equal share. An error that
does not compile, or that leaves the module's code as it was, is set aside and replaced by the next. The others meet the
quick tests and, if these pass, the whole suite; a failing test, a crash and a hang all count as caught. It works on a
copy of the checkout, and needs git, cmake, ninja, pybind11, pytest 9 and an installed fusedrnn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.mutations import Edit, edits

ROOT = Path(__file__).resolve().parent.parent
AREAS = {
    "cells": ["csrc/cells/*.hpp"],  # facts.cpp is held by the compiler
    "drivers": [f"csrc/cpu/{name}.hpp" for name in ("forward*", "driver", "sweep", "gemm", "carry", "clockwork")],
    "packing": ["csrc/cpu/pack.hpp", "csrc/cpu/storage.hpp", "csrc/weights.cpp", "csrc/sizes.cpp"],
    "gradients": [f"csrc/cpu/{name}.hpp" for name in ("backward*", "batched", "reduce")],
    "schedules": [
        "csrc/run.cpp",
        "csrc/schedule.cpp",
        "csrc/cost.cpp",
        "csrc/cpu/barrier.cpp",
        "csrc/buffer.cpp",
        "csrc/cpu/threads.cpp",
        "csrc/platform/float_environment.hpp",
    ],
    "dispatch": ["csrc/cpu/dispatch.cpp", "csrc/cpu/kernels.cpp"],
    "vectors": ["csrc/cpu/vec_*.hpp"],
    "bindings": ["csrc/bindings/*.hpp", "csrc/bindings/*.cpp"],
}
LEFT_OUT = ("csrc/bindings/cuda.cpp",)  # its tests are left out too
# What the compiler optimises less, it compiles sooner; the tests take as long, and bits do not change.
BUILD_FLAGS = ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -DNDEBUG"]
HANGS = "-o faulthandler_timeout=60 -o faulthandler_exit_on_timeout=true"  # seconds of one test
PYTEST = f"python -m pytest -x -q -n 0 -p no:cacheprovider --hypothesis-seed=0 {HANGS}"
CPU_TESTS = "--ignore-glob=tests/test_cuda*"
TIMING = "tests/test_light.py::test_import_costs_at_most_50_ms_beyond_numpy"  # depends on what else the machine does
NEEDS_PORTABLE = "tests/test_errors.py::test_settings"  # expects the portable ISA in every build
VALID = ("caught", "survived")
ISAS = {
    "avx512": {"avx512f", "avx512dq", "avx512vl", "avx512bw"},
    "avx2": {"avx2", "fma"},
    "neon": {"asimd"},
    "portable": set[str](),
}
STAGES = ("quick", "suite")
BUILD_LIMIT = 900


@dataclass(frozen=True)
class Mutant:
    number: int
    area: str
    rule: str
    path: str
    line: int
    column: int
    before: str  # the line,
    after: str  # and what becomes of it
    old: str  # the part that changes,
    new: str  # and what takes its place
    isas: tuple[str, ...]  # to build for; the first is the one to test

    def change(self) -> str:
        """The part that changes, with a little around it."""
        end = self.column + len(self.old)
        first = self.before.rfind(" ", 0, max(0, self.column - 14)) + 1
        last = self.before.find(" ", end + 14) if " " in self.before[end + 14 :] else len(self.before)
        around = self.before[first : self.column], self.before[end:last]
        return f"{around[0]}{self.old}{around[1]} -> {around[0]}{self.new}{around[1]}".strip()

    def mutated(self, text: str) -> str:
        """The source with the error."""
        lines = text.split("\n")
        if lines[self.line - 1] != self.before:
            sys.exit(f"{self.path}:{self.line} has changed since it was read")
        lines[self.line - 1] = self.after
        return "\n".join(lines)


def runnable_isas() -> tuple[str, ...]:
    """Those that this CPU has, best first."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", cpuinfo.read_text())) if cpuinfo.exists() else set()
    return tuple(isa for isa, needed in ISAS.items() if needed <= flags)


def isas_of(path: str) -> tuple[str, ...]:
    """The ISA that a source's mutants are tested on, and others to compare with where it is about one or all of them.
    Portable kernels are slow: where there is a choice they are not among those."""
    isas = runnable_isas()
    if path.endswith("dispatch.cpp"):
        return isas
    own = re.search(r"vec_(portable|avx2|avx512|neon)", path)
    return (own.group(1), *[isa for isa in isas if isa != own.group(1)][:1]) if own else isas[:1]


def draw(area: str, seed: int) -> Iterator[Mutant]:
    """Mutants of an area, until there is no other: first a source and a rule are drawn, then one of the places."""
    rng = random.Random(f"{seed} {area}")
    places: dict[tuple[str, str], list[Edit]] = {}
    texts: dict[str, str] = {}
    for path in sorted({str(p.relative_to(ROOT)) for pattern in AREAS[area] for p in ROOT.glob(pattern)}):
        if path not in LEFT_OUT and isas_of(path)[0] in runnable_isas():
            texts[path] = (ROOT / path).read_text()
            for rule, edit in edits(texts[path]):
                places.setdefault((path, rule), []).append(edit)
    number = list(AREAS).index(area)
    while places:
        path, rule = rng.choice(list(places))
        edit = places[path, rule].pop(rng.randrange(len(places[path, rule])))
        if not places[path, rule]:
            del places[path, rule]
        text, start, end = texts[path], edit.start, edit.end
        first, last = text.rfind("\n", 0, start) + 1, text.find("\n", end)
        after = text[first:start] + edit.new + text[end:last]
        where = path, text.count("\n", 0, start) + 1, start - first
        yield Mutant(number, area, rule, *where, text[first:last], after, text[start:end], edit.new, isas_of(path))
        number += len(AREAS)


@dataclass
class Run:
    """How a command ended."""

    output: str
    status: int | None  # None: it was stopped, as it took too long
    seconds: float

    def failure(self) -> str | None:
        """What failed: a test's name if there is one; None if nothing did."""
        if self.status == 0:
            return None
        failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", self.output, re.MULTILINE)
        running = re.findall(r'File "[^"]*(tests/\w+\.py)", line \d+ in (test_\w+)', self.output)
        where = f" in {'::'.join(running[0])}" if running else ""
        if self.status is None or re.search(r"Timeout \(\d+:\d\d:\d\d\)!", self.output):
            return "timeout" + where
        if self.status < 0:
            return f"crash ({signal.Signals(-self.status).name})" + where
        return failed[0] if failed else f"exit status {self.status}: {self.output.strip().splitlines()[-1:]}"


def run(command: list[str], folder: Path, limit: float | None, env: dict[str, str], memory_gb: float = 0) -> Run:
    """Runs a command with all its children, which end when it does."""
    if memory_gb:
        command = ["bash", "-c", f'ulimit -v {int(memory_gb * 2**20)}; exec "$@"', "bash", *command]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_group(process)
        output.seek(0)
        return Run(output.read(), status, time.monotonic() - start)


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """Ends the leader of a process group, and processes of the group that outlive it."""
    try:
        os.killpg(leader.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all have ended
    leader.wait()


@dataclass
class Workshop:
    """A copy of the checkout, with a build for each list of ISAs that was asked for."""

    folder: Path
    options: argparse.Namespace
    plan: Plan

    def __post_init__(self) -> None:
        self.tree = self.folder / "tree"
        shutil.rmtree(self.folder, ignore_errors=True)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and (ROOT / name).exists():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        shutil.copytree(self.tree / "python" / "fusedrnn", self.folder / "package" / "fusedrnn")
        # An environment whose fusedrnn is the package here. PYTHONPATH would not do: tests give children one of theirs.
        venv.create(self.folder / "venv", symlinks=True)
        (site,) = self.folder.glob("venv/lib/python*/site-packages")
        paths = [str(self.folder / "package"), *(p for p in sys.path if p.endswith(("site-packages", "dist-packages")))]
        (site / "mutate.pth").write_text("\n".join(paths) + "\n")
        self.codes: dict[tuple[str, ...], str] = {}

    def build_folder(self, isas: tuple[str, ...], state: str = "build") -> Path:
        return self.folder / f"{state}-{'-'.join(isas)}"

    def module(self, isas: tuple[str, ...], state: str = "build") -> Path:
        return next(self.build_folder(isas, state).glob("_core*.so"))

    def build(self, isas: tuple[str, ...]) -> Run:
        return run(["ninja", "-C", str(self.build_folder(isas))], self.tree, BUILD_LIMIT, dict(os.environ))

    def code(self, isas: tuple[str, ...]) -> str:
        """A digest of the module's code and data, without names."""
        stripped = self.folder / "stripped.so"
        subprocess.run(["strip", "-R", ".note.gnu.build-id", "-o", str(stripped), str(self.module(isas))], check=True)
        return hashlib.sha256(stripped.read_bytes()).hexdigest()

    def install(self, module: Path) -> None:
        shutil.copy2(module, self.folder / "package" / "fusedrnn" / module.name)

    def prepare(self, isas: tuple[str, ...]) -> None:
        """Builds the sources as they are, and keeps that build."""
        if isas in self.codes:
            return
        cmake = subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True).strip()
        settings = [f"-Dpybind11_DIR={cmake}", f"-DPython_EXECUTABLE={sys.executable}", *BUILD_FLAGS]
        settings.append(f"-DFUSEDRNN_ISAS={';'.join(isas)}")
        configure = ["cmake", "-G", "Ninja", "-S", str(self.tree), "-B", str(self.build_folder(isas)), *settings]
        for ended in (run(configure, self.tree, None, dict(os.environ)), self.build(isas)):
            if ended.status != 0:
                sys.exit(f"the sources as they are do not build:\n{ended.output}")
        shutil.copytree(self.build_folder(isas), self.build_folder(isas, "clean"), symlinks=True)
        self.install(self.module(isas))
        which = ["python", "-c", "import fusedrnn; print(fusedrnn._core.__file__)"]
        found = run(which, self.tree, None, self.environment(isas)).output.strip()
        if not found.startswith(str(self.folder)):
            sys.exit(f"tests would meet {found}, not the module that is built")
        self.codes[isas] = self.code(isas)

    def environment(self, isas: tuple[str, ...]) -> dict[str, str]:
        left_out = [TIMING] if "portable" in isas else [TIMING, NEEDS_PORTABLE]
        return os.environ | {
            "PATH": f"{self.folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.folder / "hypothesis"),
            "PYTEST_ADDOPTS": " ".join(f"--deselect={test}" for test in left_out),
            "FUSEDRNN_ISA": isas[0],
        }

    def test(self, isas: tuple[str, ...], stage: str, limit: float | None, *names: str) -> Run:
        command = [*shlex.split(vars(self.options)[f"{stage}_command"]), *names]
        shutil.rmtree(self.folder / "hypothesis", ignore_errors=True)  # examples that caught another mutant
        return run(command, self.tree, limit, self.environment(isas), self.options.memory)

    def limit(self, isas: tuple[str, ...], stage: str) -> float:
        """How long a stage may take: a few times what it takes without an error, which it must pass."""
        with self.plan.lock:
            if (isas, stage) not in self.plan.baselines:
                self.install(self.module(isas, "clean"))
                ended = self.test(isas, stage, None)
                if failed := ended.failure():
                    sys.exit(f"the {stage} tests fail without an error in the code: {failed}\n{ended.output[-3000:]}")
                self.plan.keep({"baseline": list(isas), "stage": stage, "seconds": round(ended.seconds, 1)})
            return 30 + float(self.options.patience) * self.plan.baselines[isas, stage]

    def meet(self, mutant: Mutant) -> dict[str, Any]:
        """Builds and tests a mutant; what came of it."""
        isas, source = mutant.isas, self.tree / mutant.path
        self.prepare(isas)
        shutil.copy2(source, self.folder / "source")
        source.write_text(mutant.mutated(source.read_text()))
        try:
            built = self.build(isas)
            record = asdict(mutant) | {"outcome": "survived", "by": "", "seconds": {"build": round(built.seconds, 1)}}
            if built.status != 0:
                return record | {"outcome": "does not compile"}
            if self.code(isas) == self.codes[isas]:
                return record | {"outcome": "same code"}
            for stage in STAGES:
                limit = self.limit(isas, stage)
                self.install(self.module(isas))
                ended = self.test(isas, stage, limit)
                record["seconds"][stage] = round(ended.seconds, 1)
                if failed := ended.failure():
                    again = self.test(isas, stage, limit, failed) if failed.startswith("tests/") else ended
                    doubt = "" if again.failure() else " (but not when run again)"
                    return record | {"outcome": "caught", "by": f"{stage}: {failed}{doubt}"}
            return record
        finally:
            shutil.copy2(self.folder / "source", source)
            shutil.rmtree(self.build_folder(isas))
            shutil.copytree(self.build_folder(isas, "clean"), self.build_folder(isas), symlinks=True)


class Plan:
    """Which mutant comes next, and what came of those before, which a file keeps."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.lock = threading.RLock()
        self.stopped = False
        self.file: Path = options.work / f"seed-{options.seed}.jsonl"
        self.records: dict[int, dict[str, Any]] = {}
        self.baselines: dict[tuple[tuple[str, ...], str], float] = {}
        areas = options.areas.split(",")
        self.missing = {
            area: options.count // len(areas) + (i < options.count % len(areas)) for i, area in enumerate(areas)
        }
        self.draws = {area: draw(area, options.seed) for area in areas}
        for line in self.file.read_text().splitlines() if self.file.exists() else []:
            self.remember(json.loads(line))

    def remember(self, record: dict[str, Any]) -> None:
        if "baseline" in record:
            self.baselines[tuple(record["baseline"]), record["stage"]] = record["seconds"]
        else:
            self.records[record["number"]] = record

    def keep(self, record: dict[str, Any]) -> None:
        with self.lock:
            self.remember(record)
            with self.file.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def take(self) -> Mutant | None:
        """The next mutant of an area that has not had its share yet; None where no more are needed now."""
        with self.lock:
            for area in sorted(self.missing, key=lambda a: -self.missing[a]):
                while self.missing[area] > 0 and not self.stopped:
                    mutant = next(self.draws[area], None)
                    if mutant is None:
                        self.missing[area] = 0
                        break
                    known = self.records.get(mutant.number)
                    if known is None:
                        self.missing[area] -= 1
                        return mutant
                    if any(known[key] != value for key, value in json.loads(json.dumps(asdict(mutant))).items()):
                        sys.exit(f"{self.file}: mutant {mutant.number} was another: sources or rules have changed")
                    self.missing[area] -= known["outcome"] in VALID
            return None

    def settle(self, record: dict[str, Any]) -> None:
        with self.lock:
            self.keep(record)
            self.missing[record["area"]] += record["outcome"] not in VALID
            print(f"{record['number']}: {row(record)}  {record['seconds']}", flush=True)


def row(record: dict[str, Any]) -> str:
    """A line of the table."""
    names = Mutant.__dataclass_fields__
    mutant = Mutant(**{key: value for key, value in record.items() if key in names})
    change = mutant.change().replace("|", "\\|")
    result = "SURVIVED" if record["outcome"] == "survived" else record["by"] or record["outcome"]
    return f"| {mutant.rule} | {mutant.path}:{mutant.line} | `{change}` | {result} |"


def report(records: list[dict[str, Any]]) -> None:
    print("\n| rule | place | change | caught by |\n|---|---|---|---|")
    for record in records:
        if record["outcome"] in VALID:
            print(row(record))
    print("\n| area | caught | survived | same code | does not compile |\n|---|---:|---:|---:|---:|")
    for area in AREAS:
        counts = Counter(record["outcome"] for record in records if record["area"] == area)
        print(f"| {area} | " + " | ".join(str(counts[o]) for o in (*VALID, "same code", "does not compile")) + " |")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=80, help="mutants that meet the tests, over all areas")
    parser.add_argument("--areas", default=",".join(AREAS), help="of " + ",".join(AREAS))
    parser.add_argument("--list", action="store_true", help="print what would be drawn first, and run nothing")
    parser.add_argument("--only", type=int, metavar="N", help="run mutant N alone, and print what came of it")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick-command", default=f"{PYTEST} -m quick {CPU_TESTS}")
    parser.add_argument("--suite-command", default=f"{PYTEST} {CPU_TESTS}")
    parser.add_argument("--patience", type=float, default=4, help="a hang is what takes so many times longer, and 30 s")
    parser.add_argument("--memory", type=float, default=12, help="GB of addresses that a test process may have; 0: all")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "fusedrnn-mutants", help="folder")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    if options.only is not None:
        area = list(AREAS)[options.only % len(AREAS)]
        asked = next(m for m in draw(area, options.seed) if m.number == options.only)
        print(json.dumps(Workshop(options.work / "only", options, Plan(options)).meet(asked), indent=1))
        return
    plan = Plan(options)
    if options.list:
        plan.records = {}
        while mutant := plan.take():
            print(f"{mutant.number}: {row(asdict(mutant) | {'outcome': mutant.area, 'by': ''})}")
        return

    options.work.mkdir(parents=True, exist_ok=True)

    def work(index: int) -> None:
        workshop = Workshop(options.work / f"worker-{index}", options, plan)
        while mutant := plan.take():
            plan.settle(workshop.meet(mutant))

    with ThreadPoolExecutor(options.workers) as pool:
        try:
            for ended in [pool.submit(work, i) for i in range(options.workers)]:
                ended.result()
        finally:
            plan.stopped = True  # after the mutants that are under way
    report([plan.records[number] for number in sorted(plan.records)])


if __name__ == "__main__":
    main()
