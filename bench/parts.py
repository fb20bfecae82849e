"""What the parts of a call take: products, pointwise steps, and all else, as `perf` samples them on one thread.

    pip install --target /tmp/new . -Cinstall.strip=false      # a build that keeps the names of its functions
    PYTHONPATH=/tmp/new python bench/parts.py --op lstm --mode infer --size 100,16,128,128 --size 100,16,256,256

Shares are of the samples in fusedrnn's own functions. Beside them: the time of a call, and the time of the products
over what their multiply-adds take on registers.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

import _common  # noqa: F401
import fusedrnn
from fusedrnn import _core
from suite import Case, cases
from systems import FusedRNN, prepared
from worker import seconds_per_call

PARTS = {"products": r"micro_kernel<", "pointwise steps": r"_pointwise<", "all else": r""}
LINE = re.compile(r"\s*\d+\.\d+%\s+(\d+)\s+_core\S*\s+\[\.\]\s+(.*)")


def part_of(symbol: str) -> str:
    return next(name for name, pattern in PARTS.items() if re.search(pattern, symbol))


def sampled(case: Case, seconds: float) -> tuple[float, Counter[str]]:
    """Seconds of a call, and samples by part."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "perf.data")
        record = ["perf", "record", "-q", "-F", "2000", "-e", "cpu-clock", "-o", data, sys.executable, __file__]
        arguments = ["--op", case.op, "--mode", case.mode, "--dtype", case.dtype, "--seconds", str(seconds)]
        size = ",".join(map(str, case.shape))
        command = [*record, *arguments, "--size", size, "--loop"]
        taken = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        report = ["perf", "report", "-i", data, "--stdio", "--no-children", "-F", "overhead,sample,dso,symbol"]
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    samples: Counter[str] = Counter()
    for count, symbol in LINE.findall(text):
        samples[part_of(symbol)] += int(count)
    if not samples["products"]:
        raise SystemExit(f"{_core.__file__} has no names of functions: install with -Cinstall.strip=false")
    return taken, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", default="lstm")
    parser.add_argument("--mode", default="infer,train")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--size", action="append", metavar="T,B,I,H", help="may be repeated")
    parser.add_argument("--seconds", type=float, default=4.0, help="of sampling each")
    parser.add_argument("--loop", action="store_true", help="only run the first case, as this program has it sampled")
    args = parser.parse_args()
    sizes: list[tuple[int, ...]] = [tuple(map(int, s.split(","))) for s in args.size or ["100,16,128,128"]]
    chosen = cases("full", args.op.split(","), args.mode.split(","), args.dtype.split(","), sizes)
    if args.loop:
        print(seconds_per_call(prepared(FusedRNN(1), chosen[0]), args.seconds))
        return
    if not shutil.which("perf"):
        raise SystemExit("this needs perf, of the package linux-perf or linux-tools")
    fusedrnn.set_num_threads(1)
    table = Table(title=f"one thread, {fusedrnn.isa()}")
    for column in ("case", "ms", *PARTS, "products over their floor"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case in chosen:
        rate = max(_core.probe_fma(case.dtype == "float64", int(2e7)) for _ in range(3))
        taken, samples = sampled(case, args.seconds)
        shares = {name: samples[name] / samples.total() for name in PARTS}
        floor = case.flops / rate / 1e9
        cells = (f"{share:.1%}" for share in shares.values())
        table.add_row(str(case), f"{1e3 * taken:.4g}", *cells, f"{taken * shares['products'] / floor:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
