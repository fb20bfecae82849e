"""The chart of README: how many times as fast as the fastest peer, from the results of `python bench --suite full`.

python bench/chart.py bench/results/cpu-full-2-threads.json --out docs/speedup.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import _common  # noqa: F401
from report import GRID_LABELS, geometric_mean, groups, label, ratio

BARS = {
    "lstm infer float32": "LSTM, inference",
    "lstm train float32": "LSTM, training",
    "gru infer float32": "GRU, inference",
    "gru train float32": "GRU, training",
}


def draw(data: dict[str, Any], path: Path) -> None:
    """A bar is the geometric mean over the grid; the line goes from the least to the most of its sizes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 2.6))
    for place, name in enumerate(BARS):
        found = [ratio(r) for r in groups(data["results"])[name] if label(r["case"]) in GRID_LABELS]
        ratios = [v for v in found if v is not None]
        mean = geometric_mean(ratios)
        axis.barh(place, mean, color="#0072b2" if "infer" in name else "#d55e00", height=0.6)
        axis.plot([min(ratios), max(ratios)], [place, place], color="black", linewidth=1)
        axis.text(max(ratios), place, f"  {mean:.1f}x in the mean", va="center")
    versions = data["versions"]
    peers = f"PyTorch {versions['torch'].split('+')[0]} and, in inference, ONNX Runtime {versions['onnxruntime']}"
    axis.axvline(1, color="#555555", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(BARS)), list(BARS.values()))
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlim(0.5, 100)
    ticks = [0.5, 1, 2, 5, 10, 20]
    axis.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel(f"times as fast as {peers}")
    where = f"{data['threads']} threads, {data['machine']['cpu']}"
    axis.set_title(f"float32, {where}: mean, least and most of {len(GRID_LABELS)} sizes", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "speedup.png")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(json.loads(args.results.read_text()), args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
