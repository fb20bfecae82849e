"""Times the kernels alone, variant by variant and plan by plan, and whole calls against PyTorch's.

    python tools/gpu/probe.py FOLDER_OF_VARIANTS [--cases lstm:bfloat16:1024,16,768,768 ...] [--variants base ...]
                              [--plans] [--json FILE]

Kernel times are those of CUDA events around the launch; medians. Only results of the variant `base` are verified.
Plans are octets in a group x groups in a thread block (csrc/cuda/plan.hpp).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[2] / "bench"))

import fusedrnn
import gpu
from fusedrnn.backends import cuda as backend

Launcher: Any = backend.Launcher  # whose methods are replaced here

CASES = ["lstm:float16:1024,16,768,768", "lstm:bfloat16:1024,64,1024,1024", "gru:bfloat16:1024,64,512,512"]


class KernelTimes:
    """Events around each launch of forward and backward."""

    def __init__(self) -> None:
        self.pairs: list[tuple[bool, Any, Any]] = []
        self.launch = backend.Launcher.launch
        times = self

        def launch(self: backend.Launcher, *arguments: Any) -> None:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            times.launch(self, *arguments)
            end.record()
            times.pairs.append((self.backward, start, end))

        Launcher.launch = launch

    def take(self) -> tuple[float, float]:
        """Milliseconds of forward and of backward since the last call."""
        torch.cuda.synchronize()
        total = [0.0, 0.0]
        for backward, start, end in self.pairs:
            total[backward] += start.elapsed_time(end)
        self.pairs.clear()
        return total[0], total[1]


def case_of(text: str) -> gpu.Case:
    op, format, size = text.split(":")
    return gpu.Case(op, "train", format, *map(int, size.split(",")))


def median_of(run: Callable[[], Any], times: KernelTimes, repeats: int) -> tuple[float, float]:
    run()
    times.take()
    taken = []
    for _ in range(repeats):
        run()
        taken.append(times.take())
    return statistics.median(f for f, _ in taken), statistics.median(b for _, b in taken)


def variant(folder: Path, name: str) -> None:
    os.environ["FUSEDRNN_CUDA_KERNELS"] = str(folder / f"{name}.fatbin")


def plan_text(w: Any, T: int, B: int, backward: bool) -> str:
    p = backend.Launcher(w, backward, T, B).run.plan
    return f"{p['octets_per_group']}x{p['groups_per_block']} blocks {p['unit_blocks']}x{p['batch_groups']}"


def measure(case: gpu.Case, options: argparse.Namespace, times: KernelTimes) -> dict[str, Any]:
    record: dict[str, Any] = {"case": f"{case.op}:{case.format}:{case.T},{case.B},{case.I},{case.H}"}
    fusedrnn.cuda.set_float32_products("tf32" if case.format == "tf32" else "float32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.format == "tf32"
    print(record["case"], flush=True)
    for name in options.variants:
        variant(options.folder, name)
        ours, theirs = gpu.layers(case, torch, "cuda")
        if name == "base":
            gpu.verify(case, ours(), theirs())
            clock = gpu.Events(torch)
            infer, peer_infer = gpu.layers(gpu.Case(**{**vars(case), "mode": "infer"}), torch, "cuda")
            record["infer_ms"] = [clock.ms(infer), clock.ms(peer_infer), clock.ms(infer), clock.ms(peer_infer)]
            record["train_ms"] = [clock.ms(ours), clock.ms(theirs), clock.ms(ours), clock.ms(theirs)]
            for mode in ("infer_ms", "train_ms"):
                print(f"  {mode}: ours, peer, ours, peer", *(f"{t:.3f}" for t in record[mode]))
        forward, backward = median_of(ours, times, options.repeats)
        record[name] = [forward, backward]
        per_step = [1000 * t / case.T for t in (forward, backward)]
        print(f"  {name:12s} forward {per_step[0]:.3f} us a step, backward {per_step[1]:.3f}", flush=True)
    variant(options.folder, "base")
    w = gpu.zero_weights(case, torch, "cuda")
    print("  plans:", plan_text(w, case.T, case.B, False), "|", plan_text(w, case.T, case.B, True))
    if options.plans:
        record["plans"] = plans(case, options, times)
    return record


def plans(case: gpu.Case, options: argparse.Namespace, times: KernelTimes) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    w = gpu.zero_weights(case, torch, "cuda")
    ours, _ = gpu.layers(case, torch, "cuda")
    for octets, groups in itertools.product((1, 2, 4, 8), (1, 2, 3, 4, 6, 8)):
        fits = []
        for backward in (False, True):
            backend.FORCED_PLAN = (octets, groups)
            try:
                plan_text(w, case.T, case.B, backward)
                fits.append(True)
            except RuntimeError:
                fits.append(False)
        launcher = Launcher.__init__

        def forced(self: Any, w: Any, backward: bool, *arguments: Any, fits: list[bool] = fits) -> None:
            backend.FORCED_PLAN = (octets, groups) if fits[backward] else (0, 0)  # noqa: B023
            launcher(self, w, backward, *arguments)  # noqa: B023

        Launcher.__init__ = forced
        try:
            if any(fits):
                forward, backward_ms = median_of(ours, times, 3)
                found[f"{octets}x{groups}"] = [forward if fits[0] else -1, backward_ms if fits[1] else -1]
        finally:
            Launcher.__init__ = launcher
            backend.FORCED_PLAN = (0, 0)
    for index, direction in enumerate(("forward", "backward")):
        rows = sorted((v[index] * 1000 / case.T, name) for name, v in found.items() if v[index] > 0)
        print(f"  {direction} plans:", ", ".join(f"{name} {us:.2f}" for us, name in rows[:10]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--variants", nargs="+", default=["base"])
    parser.add_argument("--plans", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    variant(options.folder, "base")
    print(fusedrnn.cuda.status(), torch.__version__, torch.backends.cudnn.version())
    times = KernelTimes()
    records = [measure(case_of(text), options, times) for text in options.cases]
    if options.json:
        options.json.write_text(json.dumps({"gpu": fusedrnn.cuda.status(), "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
