"""Runs the scenarios, each in a process of its own: it must end in time, with exit code 0, after it has said so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from .follow import SCRIPT, Tally, exit_text
from .scenarios import SCENARIOS

GRACE = 60.0  # seconds beyond those that a scenario is given: far more than a busy machine takes


def play_apart(name: str, seed: int, seconds: float) -> tuple[str, str]:
    """What came of a scenario: "ok", "skipped" or "failed"; and what it said."""
    command = [sys.executable, str(SCRIPT), "--child", name, "--seed", str(seed), "--seconds", str(seconds)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # so that all threads are Python's or the library's
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        said, errors = child.communicate(timeout=seconds + GRACE)
        ended = exit_text(child.returncode)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)  # faulthandler writes where it is
        try:
            said, errors = child.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            said, errors = child.communicate()
        ended = f"no end in {seconds + GRACE:.0f} s"
    line = said.strip().rpartition("\n")[2]
    word, _, rest = line.partition(" ")
    if ended == "exit code 0" and word in ("ok", "skipped") and rest.startswith(name):
        return word, line
    trace = errors.splitlines()[:12] if child.returncode < 0 else errors.splitlines()[-4:]
    return "failed", "\n".join([f"{name}: {ended}; the last line is {line!r}", *(f"        {text}" for text in trace)])


def run(seed: int, seconds: float, only: str | None) -> Tally:
    """All scenarios, once at least and until the time is over, with another seed each round; `only` one, until it
    fails or the time is over."""
    tally, start, rounds = Tally("children"), time.monotonic(), 0
    names = [name for name in SCENARIOS if only in (None, name)]
    if not names:
        sys.exit(f"--only: expected one of {', '.join(SCENARIOS)}, got {only!r}")
    each = max(0.3, min(10.0, seconds / len(names) - 0.7))
    while rounds == 0 or (time.monotonic() - start < seconds and not (only and tally.failures)):
        for name in names:
            if rounds > 0 and time.monotonic() - start > seconds:
                break
            outcome, said = play_apart(name, seed + rounds, each)
            tally.children += 1
            tally.outcomes[f"scenarios {outcome}"] += 1
            if outcome == "failed":
                command = f"python tools/fuzz.py --part children --seed {seed + rounds} --only {name}"
                tally.fail(name, name, said, command)
            elif outcome == "skipped":
                tally.notes.append(f"children: {said}")
        rounds += 1
    tally.seconds = time.monotonic() - start
    return tally
