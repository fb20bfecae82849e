"""Benchmarks: `python bench`. For each case it verifies against the reference, then times, against the peers that are
installed (PyTorch, ONNX Runtime: `pip install '.[peers]'`). See `python bench --help` and bench/README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

try:
    from rich.console import Console
    from rich.progress import Progress
except ImportError:
    sys.exit("The benchmarks need rich and matplotlib: pip install '.[bench]'")

from process import Missing, Worker, in_turns
from report import Result, markdown, plot, print_tables
from suite import GATES, MODES, Case, cases

HERE = Path(__file__).parent
DTYPES = ("float32", "float64")
CUDA_DTYPES = ("float32", "tf32", "bfloat16", "float16")


class Ceilings:
    """What the machine can do, measured in this run, when first asked for."""

    def __init__(self, worker: Worker, threads: int) -> None:
        self.worker, self.threads = worker, threads
        self.known: dict[str, float] = {}

    def _get(self, key: str, **request: Any) -> float:
        if key not in self.known:
            self.known[key] = self.worker.ask(**request)
        return self.known[key]

    def binding(self, case: Case) -> tuple[str, float]:
        """The ceiling that binds the case, and the least time in ms that it allows."""
        f64 = case.dtype == "float64"
        flops = self._get(f"{case.dtype} fma GFLOP/s", do="fma", f64=f64)
        each = max(4096, 1 << (case.weight_bytes // self.threads - 1).bit_length())
        read = self._get(f"{case.dtype} read {each >> 10} KiB each GB/s", do="read", f64=f64, bytes=each)
        passes = 2 if case.mode == "train" else 1
        times = {
            "multiply-add": case.flops / flops / 1e6,
            f"read {each >> 10} KiB": passes * case.T * case.weight_bytes / read / 1e6,
        }
        name = max(times, key=lambda k: times[k])
        return name, times[name]


def measure(case: Case, workers: dict[str, Worker], ceilings: Ceilings, rounds: int, verify: bool) -> Result:
    if verify:
        workers["fusedrnn"].ask("verify", case=case.as_dict())
    able = []
    for name, worker in workers.items():
        if worker.ask("prepare", case=case.as_dict()):
            able.append(name)
        worker.pause()
    seconds = in_turns({name: workers[name] for name in able}, rounds, "time", budget=0.05)
    times = {name: [1e3 * s for s in taken] for name, taken in seconds.items()}
    ms = {name: statistics.median(t) for name, t in times.items()}
    name, floor = ceilings.binding(case)
    spread = {n: [min(t), max(t)] for n, t in times.items()}
    return {"case": case.as_dict(), "ms": ms, "spread": spread, "ceiling": name, "fraction": floor / ms["fusedrnn"]}


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str | None:
    run = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or None


def size(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(",")))
    if len(numbers) != 4 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected four positive numbers T,B,I,H, got {text!r}")
    return numbers


def listed(valid: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in valid:
                raise argparse.ArgumentTypeError(f"expected a list from {', '.join(valid)}, got {name!r}")
        return names

    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench", description=__doc__)
    parser.add_argument(
        "--suite", choices=["quick", "full"], default="quick", help="quick: under two minutes; full: the grid"
    )
    parser.add_argument("--op", type=listed(GATES), default=None, help="lstm,gru,rnn (quick: lstm,gru)")
    parser.add_argument("--mode", type=listed(MODES), default=list(MODES), help="infer,train,step")
    parser.add_argument(
        "--dtype",
        type=listed(dict.fromkeys((*DTYPES, *CUDA_DTYPES))),
        default=None,
        help=f"{','.join(DTYPES)} (float32); with --device cuda: {','.join(CUDA_DTYPES)} (all)",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: against cuDNN (bench/gpu.py)")
    parser.add_argument("--size", type=size, action="append", default=[], metavar="T,B,I,H", help="may be repeated")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all CPUs")
    parser.add_argument("--isa", default=None, help="avx2 holds PyTorch to AVX2 as well (ONNX Runtime cannot be held)")
    parser.add_argument("--rounds", type=int, default=None, help="timed in turn so often; medians (quick 5, full 9)")
    parser.add_argument("--peers", type=listed(("torch", "onnxruntime", "none")), default=["torch", "onnxruntime"])
    parser.add_argument("--cells", action="store_true", help="every cell, as a ratio to the plain one (bench/cells.py)")
    parser.add_argument("--layers", action="store_true", help="stacks of layers, and streams (bench/layers.py)")
    parser.add_argument("--paced", type=int, default=0, metavar="STEPS", help="with --layers: a stream, every 10 ms")
    parser.add_argument("--torch", action="store_true", help="modules of PyTorch, whole steps (bench/modules.py)")
    parser.add_argument("--no-verify", action="store_true", help="skip the comparison with the reference")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for results.json, .md, .png")
    args = parser.parse_args()

    def refuse(what: str, others: tuple[str, ...], allowed: str) -> None:
        if any(getattr(args, name) != parser.get_default(name) for name in others):
            parser.error(f"{what} goes with {allowed} only")

    if args.cells:
        refuse(
            "--cells",
            ("suite", "op", "mode", "dtype", "isa", "peers", "no_verify", "device"),
            "--size, --rounds, --threads and --out",
        )
    if args.layers:
        refuse(
            "--layers",
            ("suite", "mode", "dtype", "isa", "peers", "no_verify", "device", "size", "cells"),
            "--op, --rounds, --threads, --paced and --out",
        )
    elif args.paced:
        parser.error("--paced goes with --layers only")
    if args.torch:
        others = ("op", "mode", "dtype", "isa", "peers", "no_verify", "device", "size", "cells", "layers", "threads")
        refuse("--torch", others, "--suite, --rounds and --out")
    if args.device == "cuda":
        refuse(
            "--device cuda",
            ("suite", "isa", "peers", "no_verify", "threads"),
            "--op, --mode, --dtype, --size, --rounds and --out",
        )
        if "step" in args.mode and args.mode != parser.get_default("mode"):
            parser.error("--device cuda has the modes infer and train")
    valid = CUDA_DTYPES if args.device == "cuda" else DTYPES
    for dtype in args.dtype or ():
        if dtype not in valid:
            parser.error(f"--dtype {dtype}: with --device {args.device}, expected a list from {', '.join(valid)}")
    return args


def on_cuda(args: argparse.Namespace, console: Console) -> None:
    import gpu

    ops, modes = args.op or ["lstm", "gru"], [m for m in args.mode if m != "step"]
    sizes, formats = args.size or gpu.SIZES, args.dtype or CUDA_DTYPES
    chosen = [gpu.Case(o, m, f, *s) for o in ops for m in modes for f in formats for s in sizes]
    gpu.report(chosen, args.rounds or 5, args.out, console)


def compare_layers(args: argparse.Namespace, console: Console) -> None:
    import layers

    layers.report(args.op or ["lstm", "gru"], args.threads, args.rounds or 9, args.paced, args.out, console)


def compare_cells(args: argparse.Namespace, console: Console) -> None:
    import cells
    import fusedrnn

    fusedrnn.set_num_threads(args.threads)
    cells.report(args.size or cells.SIZES, args.rounds or 9, args.out, console)


def main() -> None:
    args = arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)
    if args.cells:
        compare_cells(args, console)
        return
    if args.layers:
        compare_layers(args, console)
        return
    if args.torch:
        import modules

        modules.report(args.suite, args.rounds or 9, args.out, machine(), console)
        return
    if args.device == "cuda":
        on_cuda(args, console)
        return
    ops = args.op or (["lstm", "gru"] if args.suite == "quick" else list(GATES))
    chosen = cases(args.suite, ops, args.mode, args.dtype or ["float32"], args.size)
    workers: dict[str, Worker] = {}
    for name in ["fusedrnn", *(p for p in args.peers if p != "none")]:
        try:
            workers[name] = Worker(name, args.threads, args.isa)
        except Missing as missing:
            if name == "fusedrnn":
                sys.exit(f"fusedrnn is not installed: {missing}")
            console.print(f"[yellow]{name} takes no part: {missing}")
    ceilings = Ceilings(workers["fusedrnn"], args.threads)
    rounds = args.rounds or (5 if args.suite == "quick" else 9)
    results = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for case in chosen:
            progress.update(task, description=str(case))
            results.append(measure(case, workers, ceilings, rounds, not args.no_verify))
            progress.advance(task)
    for worker in workers.values():
        worker.close()
    print_tables(results, console)
    for key, value in ceilings.known.items():
        console.print(f"ceiling: {key} {value:.0f}, {args.threads} threads")
    versions = {k: v for w in workers.values() for k, v in w.versions.items()}
    console.print(f"{machine()['cpu']}, {args.threads} threads, {versions}")
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "threads": args.threads, "versions": versions, "commit": commit()}
    record |= {"date": time.strftime("%Y-%m-%d"), "ceilings": ceilings.known, "results": results}
    (args.out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / "results.md").write_text(markdown(results) + "\n")
    plot(results, args.out / "results.png")
    console.print(f"written: {args.out / 'results'}.json, .md, .png")


if __name__ == "__main__":
    main()
