"""Compiles variants of the CUDA kernels for one architecture, to be compared on a GPU by probe.py and the tests.

    python tools/gpu/variants.py FOLDER [--arch 90] [--only NAME ...]

Each becomes FOLDER/NAME.fatbin, which FUSEDRNN_CUDA_KERNELS selects without a new build. Mutants (`mut_...`) are wrong
on purpose: a test that passes with one of them tests nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
sys.path.insert(0, str(ROOT))

from csrc.cuda.build_images import OPTIONS  # noqa: E402

WAIT = "    if (latest != kNotYet) break;\n"
FENCE = "    fence();  // before all that this thread will give\n"
SLEEP = "__nanosleep((clock() * 2654435761u >> 20) % 2048)"

STAMP = """
}  // namespace
#include <cstdio>
__device__ long long stamps[2][1024][10];
namespace {
RNN_DEVICE void stamp(int i) {
  if (threadIdx.x != 0 && threadIdx.x != 160) return;
  long long* const mine = stamps[threadIdx.x != 0][blockIdx.x];
  mine[i] = clock64();
  if (i < 9) return;
  printf("stamps %d %d:", blockIdx.x, threadIdx.x);
  for (int k = 1; k < 9; ++k) printf(" %lld", mine[k] - mine[k - 1]);
  printf("\\n");
}
"""

# Of each variant: replacements (file, text, in its place), each of which must be found.
VARIANTS: dict[str, list[tuple[str, str, str]]] = {
    "base": [],
    # Cycles of the last step between moments (stamp(i) in the sources), of a thread that has elements and of another.
    "stamps": [("device.hpp", "RNN_DEVICE void stamp(int) {}\n", STAMP)],
    "jitter": [
        ("device.hpp", 'asm volatile("st.relaxed', f'{SLEEP};\n  asm volatile("st.relaxed'),
        ("product.hpp", "  while (true) {\n", f"  {SLEEP};\n  while (true) {{\n"),
    ],
    # What the time goes to: without a part, with which results may be wrong; and another way to wait.
    "no_fence": [("thread_block.hpp", FENCE, "")],
    "no_products": [("thread_block.hpp", "if (i >= left) break;", "break;")],
    "first_piece": [
        (
            "product.hpp",
            "                        int row_bytes) {\n",
            "                        int row_bytes) {\n"
            "  if (rows > 0) {\n    while (largest(load_fresh(from)) == kNotYet) {\n    }\n  }\n  meet_warp();\n",
        )
    ],
    # Wrong on purpose: tests must find out.
    "mut_nowait": [("product.hpp", WAIT, "    break;\n")],
    "mut_noreset": [("thread_block.hpp", "kResetEvery != 0 ||", "kResetEvery != 9 ||")],
}


def compile_variant(name: str, to: Path, arch: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "csrc"
        shutil.copytree(CSRC, sources)
        for file, text, instead in VARIANTS[name]:
            path = sources / "cuda" / file
            source = path.read_text()
            if text not in source:
                raise SystemExit(f"{name}: {file} has no {text!r}")
            path.write_text(source.replace(text, instead))
        command = ["nvcc", "-fatbin", *OPTIONS, "--expt-relaxed-constexpr", "-Xfatbin", "-compress-all"]
        command += [f"-gencode=arch=compute_{arch},code=sm_{arch}", "-diag-suppress=128,177"]
        subprocess.run([*command, "-o", str(to), str(sources / "cuda" / "kernels.cu")], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", default="90")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        to = options.folder / f"{name}.fatbin"
        compile_variant(name, to, options.arch)
        print(f"{to}: {to.stat().st_size} bytes")


if __name__ == "__main__":
    main()
