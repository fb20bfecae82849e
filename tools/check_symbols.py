"""Holds the objects that are compiled per ISA to exporting their kernel table and nothing else: a weak or global
function compiled with AVX-512 could be the copy that the linker keeps for all (csrc/cpu/kernels.cpp).

    python tools/check_symbols.py BUILD_FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def complaints(path: Path) -> list[str]:
    isa = path.parts[-4].removeprefix("kernels_").removesuffix(".dir")
    found = []
    lines = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
    exported = []
    for line in lines:
        kind, name = line[17:18], line[19:]
        if kind in "WVuvw":
            found.append(f"{path}: weak symbol {name}")
        elif kind.isupper() and kind != "U":
            exported.append(name)
    if exported != [f"fusedrnn::kernels_{isa}"]:
        found.append(f"{path}: expected to export fusedrnn::kernels_{isa} alone, exports {exported}")
    return found


def main() -> None:
    objects = sorted(Path(sys.argv[1]).glob("**/kernels_*.dir/csrc/cpu/kernels.cpp.o"))
    if not objects:
        sys.exit(f"no kernels.cpp.o below {sys.argv[1]}")
    found = [c for path in objects for c in complaints(path)]
    if found:
        sys.exit("\n".join(found))
    print(f"{len(objects)} objects export their kernel table and nothing else")


if __name__ == "__main__":
    main()
