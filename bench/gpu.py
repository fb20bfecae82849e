"""The CUDA backend against PyTorch's layers (cuDNN), in the same format, input projection included.

    python bench --device cuda                       # --op, --mode, --dtype, --size T,B,I,H, --rounds, --out

Both run in one process and take turns on one stream; times are those of CUDA events around calls that follow each
other, warm; figures are medians over the rounds. `train` makes new weights, runs forward and backward, and makes every
gradient.

The floor of a case is the larger of its multiply-adds over the rate of a large matrix product, and of the bytes that
must pass through the GPU's memory over the rate of a large copy, both measured in this run; and, beyond that, the
exchange of operands between the kernel's blocks, as long as was measured with the same blocks doing nothing else.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import fusedrnn
from fusedrnn.backends.cuda import Launcher
from report import geometric_mean
from suite import GATES

SIZES = [(1024, B, H, H) for B in (1, 16, 64, 256) for H in (128, 256, 512, 768, 1024, 2048)]
SIZES += [(128, 512, 1024, 1024), (1024, 7, 650, 650), (333, 16, 100, 257)]
RELATIVE_ERROR = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2}  # to refuse nonsense, no promise


@dataclass(frozen=True)
class Case:
    op: str
    mode: str
    format: str
    T: int
    B: int
    I: int
    H: int

    @property
    def gates(self) -> int:
        return GATES[self.op]

    @property
    def multiply_adds(self) -> float:
        forward = self.T * self.B * self.gates * self.H * (self.I + self.H)
        return forward * (3 if self.mode == "train" else 1)

    @property
    def bytes(self) -> float:
        """Each read or written once: x, W x (made, then read), y; in training the reserve, dy, dx, and all again."""
        rows = self.T * self.B * (4 if self.format in ("float32", "tf32") else 2)
        forward = rows * (self.I + 2 * self.gates * self.H + self.H)
        if self.mode == "infer":
            return forward
        return forward + rows * (4 * (self.gates + 1) * self.H + 2 * self.H + 2 * self.I)


class Events:
    """Times work on the current stream."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def ms(self, run: Callable[[], Any], budget_ms: float = 50.0) -> float:
        """Milliseconds of one call, of as many as the budget holds."""
        first = self._elapsed(run, 1)
        n = max(1, min(1000, int(budget_ms / max(first, 1e-3))))
        return self._elapsed(run, n) / n

    def _elapsed(self, run: Callable[[], Any], n: int) -> float:
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def dtype_of(format: str, torch: Any) -> Any:
    return torch.float32 if format == "tf32" else getattr(torch, format)


def zero_weights(case: Case, torch: Any, device: str) -> Any:
    """The backend's weights of a case, for kernels whose results nobody looks at."""
    make = getattr(fusedrnn, f"{case.op.upper()}Weights")
    shapes = ((case.gates * case.H, case.I), (case.gates * case.H, case.H))
    return make(*(torch.zeros(s, device=device).to(dtype_of(case.format, torch)) for s in shapes))._loaded


def layers(case: Case, torch: Any, device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and PyTorch's, on the same weights and inputs. Each returns y, and dx if it trains."""
    dtype = dtype_of(case.format, torch)
    name = case.op.upper()
    peer = getattr(torch.nn, name)(case.I, case.H).to(device, dtype)
    peer.flatten_parameters()
    x = torch.randn(case.T, case.B, case.I, device=device).to(dtype)
    dy = torch.randn(case.T, case.B, case.H, device=device).to(dtype)
    parameters = [p.detach() for p in peer.parameters()]
    make = getattr(fusedrnn, f"{name}Weights")
    infer, forward, backward = (getattr(fusedrnn, case.op + s) for s in ("", "_forward", "_backward"))
    kept = make(*parameters)

    def ours() -> Any:
        if case.mode == "infer":
            return infer(x, kept).y, None
        out, reserve = forward(x, make(*parameters))
        return out.y, backward(reserve, dy).dx

    def theirs() -> Any:
        if case.mode == "infer":
            with torch.no_grad():
                return peer(x)[0], None
        xs = x.clone().requires_grad_()
        peer.zero_grad(set_to_none=True)
        y, _ = peer(xs)
        y.backward(dy)
        return y.detach(), xs.grad

    return ours, theirs


def verify(case: Case, ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        if mine is None:
            continue
        error = float((mine.double() - other.double()).norm() / other.double().norm())
        if not error <= RELATIVE_ERROR[case.format]:
            raise AssertionError(f"{case}: {error:.3g} away from PyTorch")


class Ceilings:
    def __init__(self, torch: Any, device: str, clock: Any, size: int = 8192) -> None:
        self.torch, self.device, self.clock, self.size = torch, device, clock, size
        self.known: dict[str, float] = {}

    def multiply_adds(self, format: str) -> float:
        """A millisecond."""
        if format not in self.known:
            a = self.torch.randn(self.size, self.size, device=self.device).to(dtype_of(format, self.torch))
            self.known[format] = self.size**3 / self.clock.ms(lambda: a @ a)
        return self.known[format]

    def bytes(self) -> float:
        """A millisecond, read and written."""
        if "copy" not in self.known:
            a = self.torch.randn(4 * self.size * self.size, device=self.device)
            b = self.torch.empty_like(a)
            self.known["copy"] = 2 * a.numel() * 4 / self.clock.ms(lambda: b.copy_(a))
        return self.known["copy"]

    def exchange(self, case: Case) -> float:
        """Milliseconds in which a case's blocks give each other operands."""
        w, total = zero_weights(case, self.torch, self.device), 0.0
        for backward in (False, True) if case.mode == "train" else (False,):
            launcher = Launcher(w, backward, case.T, case.B)
            total += self.clock.ms(lambda one=launcher: one.run.launch_exchange(case.T, w.stream()))
        return total


def measure(case: Case, torch: Any, device: str, clock: Any, ceilings: Ceilings, rounds: int) -> dict[str, Any]:
    fusedrnn.cuda.set_float32_products("tf32" if case.format == "tf32" else "float32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.format == "tf32"
    ours, theirs = layers(case, torch, device)
    verify(case, ours(), theirs())
    times: dict[str, list[float]] = {"fusedrnn": [], "torch": []}
    for _ in range(rounds):
        times["fusedrnn"].append(clock.ms(ours))
        times["torch"].append(clock.ms(theirs))
    ms = {name: statistics.median(t) for name, t in times.items()}
    work = max(case.multiply_adds / ceilings.multiply_adds(case.format), case.bytes / ceilings.bytes())
    exchange = ceilings.exchange(case)
    spread = {name: [min(t), max(t)] for name, t in times.items()}
    return {"case": asdict(case), "ms": ms, "spread": spread, "work_ms": work, "exchange_ms": exchange}


def print_table(results: list[dict[str, Any]], console: Console) -> list[str]:
    """One table for each op, mode and format; returns them in Markdown too."""
    lines = []
    for key in dict.fromkeys((r["case"]["op"], r["case"]["mode"], r["case"]["format"]) for r in results):
        rows = [r for r in results if (r["case"]["op"], r["case"]["mode"], r["case"]["format"]) == key]
        columns = ("T,B,I,H", "ms", "cuDNN", "x cuDNN", "of floor")
        table = Table(*columns, title=" ".join(key))
        lines += ["", f"| {' '.join(key)}: {' | '.join(columns)} |", "|---|" + "---:|" * 4]
        for r in rows:
            mine, theirs = r["ms"]["fusedrnn"], r["ms"]["torch"]
            size = ",".join(str(r["case"][n]) for n in "TBIH")
            floor = r["work_ms"] + r["exchange_ms"]
            cells = (size, f"{mine:.3g}", f"{theirs:.3g}", f"{theirs / mine:.2f}x", f"{100 * floor / mine:.0f}%")
            table.add_row(*cells)
            lines.append(f"| {' | '.join(cells)} |")
        ratios = [r["ms"]["torch"] / r["ms"]["fusedrnn"] for r in rows]
        table.caption = f"geometric mean {geometric_mean(ratios):.2f}x, least {min(ratios):.2f}x"
        lines.append(f"| geometric mean, least | | | {geometric_mean(ratios):.2f}x, {min(ratios):.2f}x | |")
        console.print(table)
    return lines


def report(cases: list[Case], rounds: int, out: Path, console: Console) -> None:
    if not fusedrnn.cuda.is_available():
        sys.exit(f"no CUDA: {fusedrnn.cuda.status()}")
    try:
        import torch
    except ImportError:
        sys.exit("the peer is PyTorch with CUDA, and whose arrays are used: pip install torch")
    clock = Events(torch)
    ceilings = Ceilings(torch, "cuda", clock)
    results = []
    with Progress(console=console, transient=True) as progress:
        for case in progress.track(cases):
            results.append(measure(case, torch, "cuda", clock, ceilings, rounds))
    lines = print_table(results, console)
    versions = {"fusedrnn": fusedrnn.__version__, "torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    record = {"gpu": fusedrnn.cuda.status(), "versions": versions, "date": time.strftime("%Y-%m-%d"), "rounds": rounds}
    out.mkdir(parents=True, exist_ok=True)
    (out / "cuda.json").write_text(
        json.dumps(record | {"ceilings": ceilings.known, "results": results}, indent=1) + "\n"
    )
    (out / "cuda.md").write_text("\n".join(lines) + "\n")
    console.print(f"written: {out / 'cuda'}.json, .md")
