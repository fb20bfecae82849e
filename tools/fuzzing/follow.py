"""What a child that makes calls tells its parent, and the parent that starts one child after another and reads that.

A child writes a line before each call, so that the parent knows which call killed it or never came back.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

SCRIPT = Path(__file__).resolve().parent.parent / "fuzz.py"
START_SECONDS = 60  # for a child to import and to make its first call
MOST_WAITS = 3  # hangs whose time does not count


def shape_of(message: str) -> str:
    """What messages have in common that differ in names and numbers."""
    return re.sub(r"'[^']*'|<[^>]*>|\d+", "_", message)[:60]


@dataclass
class Failure:
    text: str
    command: str
    calls: Counter[str] = field(default_factory=Counter)  # by what was called

    @property
    def count(self) -> int:
        return self.calls.total()

    def describe(self) -> str:
        calls = [f"{name} ({n})" for name, n in self.calls.most_common()]
        also = f"\n    in {', '.join(calls[:12])}{', ...' if len(calls) > 12 else ''}" if len(calls) > 1 else ""
        return f"FAILED {self.count} times: {self.text}{also}\n    {self.command}"


@dataclass
class Tally:
    """What a part counts, and the failures, by what tells one from another."""

    part: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    children: int = 0
    seconds: float = 0.0

    def fail(self, signature: str, name: str, text: str, command: str) -> bool:
        """Counts a failure; whether it is the first of its kind."""
        is_new = signature not in self.failures
        failure = self.failures.setdefault(signature, Failure(text, command))
        failure.calls[name] += 1
        return is_new

    def line(self) -> str:
        counts = ", ".join(f"{n} {what}" for what, n in sorted(self.outcomes.items(), key=lambda item: -item[1]))
        found = sum(f.count for f in self.failures.values())
        failures = f"{found} failures of {len(self.failures)} kinds" if found else "no failure"
        return f"{self.part}: {counts or 'nothing'}; {self.children} children; {self.seconds:.1f} s; {failures}"


class Log:
    """The child's side: one line of JSON for each event, written at once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def _write(self, **event: Any) -> None:
        line = (json.dumps(event) + "\n").encode()
        while line:
            line = line[os.write(self.fd, line) :]

    def begin(self, index: int, name: str, text: str, kinds: Sequence[str] = ()) -> None:
        """Before call number `index`: what is called, in short and in full, and the kinds of garbage it is given."""
        self._write(begin=index, name=name, text=text, kinds=list(kinds))

    def count(self, *outcomes: str) -> None:
        self._write(count=outcomes)

    def failure(self, signature: str, text: str) -> None:
        self._write(failure=signature, text=text)

    def end(self, next_index: int) -> None:
        self._write(end=next_index)


@dataclass
class Plan:
    """Which calls a part makes: numbers first..last of a seed, until the time is over."""

    part: str
    seed: int
    first: int = 0
    last: int | None = None
    hang: float = 20.0  # seconds of one call that count as a hang

    def command(self, only: str) -> str:
        return f"python tools/fuzz.py --part {self.part} --seed {self.seed} --only {only}"


def exit_text(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Child:
    """A child process that makes calls, and what is known of the call that it is in."""

    def __init__(self, plan: Plan, first: int, seconds: float, withheld: set[str]) -> None:
        read, write = os.pipe()
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by those who follow the child)
        last = [] if plan.last is None else ["--last", str(plan.last)]
        arguments = ["--worker", plan.part, "--seed", str(plan.seed), "--first", str(first), *last]
        arguments += ["--seconds", str(seconds), "--pipe", str(write), "--withhold", json.dumps(sorted(withheld))]
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            pass_fds=[write],
            env=os.environ | {"PYTHONMALLOC": "debug"},  # objects that have been freed are full of 0xDD
        )
        os.close(write)
        self.pipe = read
        self.first = first
        self.call: dict[str, Any] = {}  # the last call that was begun
        self.next_index: int | None = None  # set by a child that has finished
        self.hung = False
        self.seconds_used = 0.0  # of CPUs' time, by a child that hangs

    def events(self, hang: float) -> Iterator[dict[str, Any]]:
        """Until the child ends; one that says nothing for so many seconds is killed, and `hung`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            rest = b""
            while True:
                if not selector.select(hang if self.call else START_SECONDS):
                    self.hung = True
                    self.kill()
                    break
                data = os.read(self.pipe, 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                yield from map(json.loads, lines)
        os.close(self.pipe)
        self.process.wait()

    def kill(self) -> None:
        """First by a signal that makes faulthandler write where the child is."""
        self.seconds_used = cpu_seconds(self.process.pid)
        self.process.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()

    def last_words(self) -> str:
        """What the child wrote to stderr: where it was, if a signal killed it; else the exception that ended it."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").splitlines()
        lines = lines[:12] if self.process.returncode < 0 else lines[-6:]
        return "\n".join(f"        {line}" for line in lines)


def follow(child: Child, plan: Plan, tally: Tally) -> None:
    """Counts what a child does, until it ends."""
    tally.children += 1
    for event in child.events(plan.hang):
        if "begin" in event:
            child.call = event
        elif "count" in event:
            tally.outcomes.update(event["count"])
        elif "failure" in event:
            index, name, text = (child.call[key] for key in ("begin", "name", "text"))
            tally.fail(event["failure"], name, f"{text}\n      {event['text']}", plan.command(str(index)))
        else:
            child.next_index = event["end"]


def dies_alone(plan: Plan, index: int) -> bool:
    """Whether call number `index` kills a process that makes no other."""
    alone = Plan(plan.part, plan.seed, index, index, plan.hang)
    child = Child(alone, index, 0, set())
    follow(child, alone, Tally(plan.part))
    return child.next_index is None


def mourn(child: Child, plan: Plan, tally: Tally, withheld: set[str]) -> None:
    """Reports the call that killed a child, and withholds its like."""
    if not child.call:
        raise RuntimeError(f"a child of part {plan.part} died before its first call:\n{child.last_words()}")
    index, name, kinds = child.call["begin"], child.call["name"], child.call["kinds"]
    what = f"no answer in {plan.hang:.0f} s" if child.hung else exit_text(child.process.returncode)
    used = f", {child.seconds_used:.0f} s of CPU time since its start" if child.hung else ""
    text = f"{child.call['text']}\n      {what}{used}\n{child.last_words()}"
    signature = f"{what} | {name}"
    if tally.fail(signature, name, text, plan.command(str(index))) and not dies_alone(plan, index):
        tally.failures[signature].command = f"{plan.command(f'{child.first}-{index}')}  # not by the last call alone"
    tally.outcomes["hangs" if child.hung else "crashes"] += 1
    if len(kinds) == 1:
        like = kinds[0] if child.hung else f"{name}|{kinds[0]}"
        withheld.add(like)
        tally.notes.append(f"{plan.part}: {like!r} withheld after call {index}, for the rest of the run")


def make_calls(plan: Plan, seconds: float) -> Tally:
    """A part, in one child after another. The time of the first hangs does not count, so that others get theirs."""
    tally, withheld, start = Tally(plan.part), set[str](), time.monotonic()
    deadline, first = start + seconds, plan.first
    while plan.last is None or first <= plan.last:
        left = deadline - time.monotonic()
        if left <= 0 and plan.last is None:
            break
        child = Child(plan, first, max(left, 0), withheld)
        follow(child, plan, tally)
        if child.next_index is None:
            mourn(child, plan, tally, withheld)
            first = (child.call["begin"] if child.call else first) + 1
            deadline += 2 * plan.hang if child.hung and tally.outcomes["hangs"] <= MOST_WAITS else 0
        elif child.process.returncode != 0:
            what = f"after its calls, a child ended with {exit_text(child.process.returncode)}"
            command = plan.command(f"{child.first}-{child.next_index - 1}")
            tally.fail(what, "exit", f"{what}\n{child.last_words()}", command)
            first = child.next_index
        else:
            first = child.next_index
        child.errors.close()
    tally.seconds = time.monotonic() - start
    return tally
