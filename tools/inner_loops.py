"""The inner loops of the micro-kernels for 64-bit ARM (csrc/cpu/gemm.hpp): their multiply-adds, and what else is there.

    python tools/inner_loops.py build/aarch64/CMakeFiles/kernels_neon.dir/csrc/cpu/kernels.cpp.o

Reads what aarch64-linux-gnu-objdump says of an object that is compiled as releases are (-O3). Prints the loop over k of
each kernel, by its template arguments: types of weights and of sums, gates, rows, tiles, whether rows lie side by side,
whether weights are fetched. Exits with 1 if a loop uses the stack: then its sums do not fit the registers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from typing import NamedTuple


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


class Loop(NamedTuple):
    kernel: str
    body: list[Instruction]

    def count(self, *names: str) -> int:
        return sum(i.name in names for i in self.body)

    def uses_stack(self) -> bool:
        return any("[sp" in i.operands for i in self.body)


def innermost(kernel: str, code: list[Instruction]) -> Loop | None:
    """The shortest loop with multiply-adds."""
    places = {instruction.address: i for i, instruction in enumerate(code)}
    loops = []
    for i, (_, name, operands) in enumerate(code):
        target = re.match(r"(?:\w+, )*([0-9a-f]+) <", operands) if name.startswith(("b.", "cb", "tb")) else None
        start = places.get(int(target[1], 16), i + 1) if target else i + 1
        loop = Loop(kernel, code[start : i + 1])
        if loop.count("fmla"):
            loops.append(loop)
    return min(loops, key=lambda loop: len(loop.body), default=None)


def loops_of(path: str) -> list[Loop]:
    command = ["aarch64-linux-gnu-objdump", "-dC", "--no-show-raw-insn", path]
    found = []
    for function in subprocess.check_output(command, text=True).split("\n\n"):
        head = re.search(r"^[0-9a-f]+ <.*micro_kernel<(.*?)>\(", function, re.MULTILINE)
        if not head:
            continue
        lines = re.findall(r"^[ \t]+([0-9a-f]+):[ \t]+(\S+)[ \t]*(.*)$", function, re.MULTILINE)
        loop = innermost(head[1], [Instruction(int(address, 16), *rest) for address, *rest in lines])
        if loop:
            found.append(loop)
    return found


def main() -> None:
    loops = loops_of(sys.argv[1])
    if not loops:
        sys.exit(f"{sys.argv[1]}: no loop of a micro-kernel was found")
    for loop in sorted(loops, key=lambda loop: (loop.count("fmla"), loop.kernel)):
        names = Counter(i.name for i in loop.body)
        loads = loop.count("ldr", "ldur", "ld1r") + 2 * loop.count("ldp")
        stack = ", on the stack" if loop.uses_stack() else ""
        print(f"{loop.kernel}: {names['fmla']} multiply-adds, {loads} loads, {len(loop.body)} instructions{stack}")
    spilt = sum(loop.uses_stack() for loop in loops)
    print(f"{len(loops)} loops, {spilt} of them with sums on the stack")
    sys.exit(1 if spilt else 0)


if __name__ == "__main__":
    main()
