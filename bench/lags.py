"""Long time lags: which cells learn what their papers say, and how fast.

The experiments of Hochreiter & Schmidhuber, "Long short-term memory" (1997), with the paper's criteria, but for the
long grammar, which is ours: see `lag_tasks.py`. Networks are those of `lag_networks.py`; they learn by Adam from
sequences drawn anew each time, 16 at once. A trial ends with success, or when it has seen the task's cap of sequences.

    python bench/lags.py                          # two trials of each, few sequences: a look
    python bench/lags.py --full                   # ten trials of each, 30 of the grammar: two hours on two cores
    python bench/lags.py --table                  # the table of what has been run
    python bench/lags.py --pictures docs          # gradients and gates, of networks trained for them
    python bench/lags.py --times                  # of a sequence in training, and of a step of a stream

Trials are written, one a line, to a file from which a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

import _common  # noqa: F401
import fusedrnn
from lag_networks import BATCH, KINDS, Kind, Network, trained
from lag_tasks import TASKS, Task

# Of the processes of trials: one thread each; freed memory is kept, as fresh pages take time.
OF_PROCESSES = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "100000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
}
RESULTS = Path(__file__).parent / "results" / "lags.jsonl"


@dataclass(frozen=True)
class Trial:
    task: str
    kind: str
    seed: int
    cap: int
    weights: int
    sequences: int | None  # until success
    wrong: int  # of 2,560 new sequences, after it
    seconds: float


def run_trial(task: Task, kind: Kind, seed: int, cap: int) -> Trial:
    start = time.perf_counter()
    network, sequences = trained(task, kind, seed, cap)
    seconds = time.perf_counter() - start
    rng = np.random.default_rng([seed, 1])
    errors = np.concatenate([network.errors(task.test(rng, 256)) for _ in range(10)])
    wrong = int(np.count_nonzero(errors > task.criterion.wrong))
    return Trial(task.name, kind.name, seed, cap, network.size, sequences, wrong, round(seconds, 1))


def read(path: Path) -> list[Trial]:
    return [Trial(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def run(args: argparse.Namespace, console: Console) -> None:
    done = {(t.task, t.kind, t.seed, t.cap) for t in read(args.results)}
    jobs = [
        (task, kind, seed, args.cap or task.cap)
        for task in chosen(args.tasks)
        for seed in range(args.trials or task.trials)
        for kind in KINDS
        if kind.name in args.kinds
    ]
    left = [job for job in jobs if (job[0].name, job[1].name, *job[2:]) not in done]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    os.environ |= OF_PROCESSES
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(args.jobs, context, fusedrnn.set_num_threads, (1,)) as pool,
        Progress(console=console) as progress,
        args.results.open("a") as file,
    ):
        bar = progress.add_task("trials", total=len(jobs), completed=len(jobs) - len(left))
        for future in as_completed([pool.submit(run_trial, *job) for job in left]):
            file.write(json.dumps(asdict(future.result())) + "\n")
            file.flush()
            progress.advance(bar)


def chosen(names: list[str]) -> list[Task]:
    return [task for task in TASKS if task.name in names]


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    ruler = "|---" * 2 + "|---:" * (len(heads) - 2) + "|"
    return "\n".join(["| " + " | ".join(heads) + " |", ruler, *("| " + " | ".join(line) + " |" for line in lines)])


def successes(trials: list[Trial]) -> str:
    """How many, of how many, and the mean of the sequences that they took."""
    took = [t.sequences for t in trials if t.sequences is not None]
    return f"{len(took)}/{len(trials)}" + (f": {np.mean(took):,.0f}" if took else "")


def wrong(trials: list[Trial]) -> str:
    """The mean, of the trials that succeeded."""
    found = [t.wrong for t in trials if t.sequences is not None]
    return f"{np.mean(found):.1f}" if found else ""


def print_table(args: argparse.Namespace) -> None:
    """As Markdown: a row for each task, a column for each network."""
    trials = read(args.results)
    kinds = [kind.name for kind in KINDS if any(t.kind == kind.name for t in trials)]
    for title, cell in (
        ("Trials that succeeded, of all: sequences until then, in the mean.", successes),
        ("Wrong of 2,560 new sequences, after success; in the mean.", wrong),
    ):
        lines = []
        for task in chosen(args.tasks):
            of_task = [t for t in trials if t.task == task.name]
            if of_task:
                caps = "/".join(f"{cap:,}" for cap in sorted({t.cap for t in of_task}))
                cells = [cell([t for t in of_task if t.kind == name]) for name in kinds]
                lines.append([f"{task.name} {task.title}", caps, task.paper or "-", *cells])
        print(f"\n{title}\n\n{markdown(['task', 'cap', 'LSTM, the paper', *kinds], lines)}")
    print("\nWeights.\n")
    for name in kinds:
        sizes = {t.task: t.weights for t in trials if t.kind == name}
        print(f"{name}: " + ", ".join(f"{task} {size:,}" for task, size in sizes.items()))


def print_times(rounds: int = 15) -> None:
    """On one thread: a sequence of training on task 4 (105 steps on average, batches of 16, drawing and optimiser
    apart), and a step of a stream of one row; medians of rounds in which networks take turns."""
    fusedrnn.set_num_threads(1)
    task, rng = next(task for task in TASKS if task.name == "4"), np.random.default_rng(0)
    networks = [Network(task, kind, rng) for kind in KINDS]
    batches = [task.draw(rng, BATCH) for _ in range(10)]
    x = rng.standard_normal((1, task.inputs)).astype("float32")
    streams = [network.layer.stream() for network in networks]
    times: list[list[tuple[float, float]]] = [[] for _ in KINDS]
    for _ in range(rounds):
        for network, stream, of_kind in zip(networks, streams, times, strict=True):
            start = time.perf_counter()
            for s in batches:
                network.gradients(s)
            learned = time.perf_counter()
            for _ in range(2000):
                stream.step(x)
            of_kind.append((learned - start, time.perf_counter() - learned))
    print("| network | training, us a sequence | a stream, us a step |\n|---|---:|---:|")
    for network, of_kind in zip(networks, times, strict=True):
        training, step = np.median(of_kind, axis=0) * 1e6
        print(f"| {network.kind.name} | {training / (10 * BATCH):.0f} | {step / 2000:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--trials", type=int, help="of each task and network")
    parser.add_argument("--cap", type=int, help="sequences of a trial, in place of the task's")
    names = [task.name for task in TASKS], [kind.name for kind in KINDS]
    parser.add_argument("--tasks", nargs="+", choices=names[0], default=names[0], metavar="TASK")
    parser.add_argument("--kinds", nargs="+", choices=names[1], default=names[1], metavar="NETWORK")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--table", action="store_true", help="of the results only")
    parser.add_argument("--times", action="store_true", help="only these; on a machine with nothing else to do")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draws there, and runs no trials")
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name} in results, of --full; else in out")
    args = parser.parse_args()
    args.results = args.results or (
        RESULTS if args.full or args.table else Path(__file__).parent / "out" / RESULTS.name
    )
    if args.pictures:
        from lag_pictures import draw_all

        draw_all(args.pictures)
        return
    if args.times:
        print_times()
        return
    if not args.full:
        args.trials, args.cap = args.trials or 2, args.cap or 2000
    if not args.table:
        run(args, Console(width=110))
    print_table(args)


if __name__ == "__main__":
    main()
