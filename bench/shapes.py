"""Random shapes: the schedule that fusedrnn chooses against all that can be forced, and fusedrnn against its peers.

    python bench/shapes.py --threads 2                     # at most an hour; resumable: call it again to go on
    python bench/shapes.py --threads 2 --shapes 40 --peers ""

T of 1..1000, B of 1..256, I of 1..2048, H of 1..1024, each log-uniform; lstm, gru or rnn; inference or training.
Shapes of more than 20 GFLOP are drawn again. All systems, and fusedrnn under each schedule, take turns; schedules that
share a call out in the same way are one. Systems are compared by the medians over the rounds, schedules of the same
system by the least of the rounds, as what disturbs a run only makes it longer. Every shape is a line of --out as soon
as it is measured."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from process import Missing, Worker
from report import geometric_mean
from schedules import schedules
from suite import GATES, Case, random_case

MOST = {"T": 1000, "B": 256, "I": 2048, "H": 1024}
MOST_FLOPS = 20e9
PEERS = ("torch", "onnxruntime")


Times = dict[str, dict[str, float]]


def timed(workers: dict[str, Worker], case: Case, forced: list[str], rounds: int, budget: float) -> Times:
    """Milliseconds by system; by schedule, of fusedrnn: "auto" is what it chooses."""
    ours, peers = workers["fusedrnn"], {n: w for n, w in workers.items() if n != "fusedrnn"}
    able = []
    for name, worker in workers.items():
        if worker.ask("prepare", case=case.as_dict()):
            able.append(name)
        worker.pause()
    shares = {name: str(ours.ask("schedule", name=name)) for name in ("auto", *forced)}
    firsts: dict[str, str] = {}
    for name, share in shares.items():
        firsts.setdefault(share, name)
    runs = [*firsts.values()]
    times: dict[str, list[float]] = {name: [] for name in (*runs, *(p for p in peers if p in able))}
    for i in range(rounds):
        # Each in its turn is the first after the peers have been at work.
        for name in (*runs[i % len(runs) :], *runs[: i % len(runs)]):
            ours.ask("schedule", name=name)
            times[name].append(1e3 * ours.ask("time", budget=budget))
        ours.pause()
        for name, worker in peers.items():
            if name in able:
                times[name].append(1e3 * worker.ask("time", budget=budget))
                worker.pause()
    times |= {name: times[firsts[share]] for name, share in shares.items()}
    return {name: {"median": median(t), "least": min(t)} for name, t in times.items()}


def behind(line: dict[str, Any], forced: list[str]) -> float:
    """The time of auto over that of the best schedule."""
    times: Times = line["times"]
    return times["auto"]["least"] / min(times[name]["least"] for name in ("auto", *forced))


def ahead(line: dict[str, Any]) -> float | None:
    """The time of the fastest peer over ours."""
    times: Times = line["times"]
    peers = [t["median"] for name, t in times.items() if name in PEERS]
    return min(peers) / times["auto"]["median"] if peers else None


def quantiles(values: list[float]) -> str:
    a = np.sort(values)
    return f"{a[0]:.2f} / {a[int(0.01 * len(a))]:.2f} / {np.median(a):.2f}" if len(a) else ""


def report(lines: list[dict[str, Any]], forced: list[str], console: Console) -> None:
    table = Table(title=f"{len(lines)} shapes, {lines[0]['threads']} threads")
    for column in ("op", "mode", "shapes", "auto within 5%", "worst", "fastest peer's time: least / 1% / median"):
        table.add_column(column)
    for mode in ("infer", "train"):
        for op in ("all", *GATES):
            some = [x for x in lines if x["case"]["mode"] == mode and op in ("all", x["case"]["op"])]
            if not some:
                continue
            late = [behind(x, forced) for x in some]
            share = sum(b <= 1.05 for b in late) / len(late)
            ratios = [r for r in map(ahead, some) if r is not None]
            table.add_row(op, mode, str(len(some)), f"{share:.0%}", f"{max(late):.2f}x", quantiles(ratios))
    late = [behind(x, forced) for x in lines]
    share = sum(b <= 1.05 for b in late) / len(late)
    table.caption = f"auto within 5% of the best schedule: {share:.0%}; geometric mean {geometric_mean(late):.3f}"
    console.print(table)

    def name_all(title: str, some: list[dict[str, Any]], which: str) -> None:
        console.print(f"{title}, {which} ms:")
        for x in some:
            times = ", ".join(f"{name} {t[which]:.3g}" for name, t in x["times"].items())
            console.print(f"  {Case(**x['case'])}: {times}")

    name_all("furthest behind", sorted(lines, key=lambda x: -behind(x, forced))[:10], "least")
    name_all("peers ahead", sorted((x for x in lines if (ahead(x) or 1) < 1), key=lambda x: ahead(x) or 1), "median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=0.02, help="seconds of a turn")
    parser.add_argument("--minutes", type=float, default=60, help="stop then; call again to go on")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    console = Console(width=120)
    out = args.out or Path(__file__).parent / "out" / f"shapes-{args.seed}-{args.threads}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    rng = np.random.default_rng(args.seed)
    cases = [random_case(rng, ["infer", "train"], MOST, MOST_FLOPS) for _ in range(args.shapes)]
    conditions = {name: getattr(args, name) for name in ("threads", "peers", "rounds", "budget")}
    same = zip(lines, cases, strict=False)
    if any(x["case"] != c.as_dict() or any(x[k] != v for k, v in conditions.items()) for x, c in same):
        raise SystemExit(f"{out} has other shapes or conditions: remove it, or give another --out")
    lines = lines[: len(cases)]
    forced = ["one", *(name for name, _, _ in schedules(args.threads))] if args.threads > 1 else []
    workers = {}
    for name in ("fusedrnn", *filter(None, args.peers.split(","))):
        try:
            workers[name] = Worker(name, args.threads)
        except Missing as missing:
            console.print(f"{name} is left out: {missing}")
    stop = time.monotonic() + 60 * args.minutes
    with out.open("a") as file:
        for case in track(cases[len(lines) :], "shapes", console=console, transient=True):
            if time.monotonic() > stop:
                break
            line = {
                **conditions,
                "case": case.as_dict(),
                "times": timed(workers, case, forced, args.rounds, args.budget),
            }
            lines.append(line)
            file.write(json.dumps(line) + "\n")
            file.flush()
    for worker in workers.values():
        worker.close()
    if lines:
        report(lines, forced, console)


if __name__ == "__main__":
    main()
