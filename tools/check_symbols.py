"""Holds the objects of the module to two rules. Those that are compiled per ISA export their kernel table and nothing
else: a weak or global function compiled with AVX-512 could be the copy that the linker keeps for all
(csrc/cpu/kernels.cpp). And none uses iostreams or locales (csrc/read_file.hpp).

    python tools/check_symbols.py BUILD_FOLDER
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

STREAMS = re.compile(  # classes and functions, as nm writes them
    r"std::(__\w+::)?(basic_(streambuf|filebuf|stringbuf|ios|[io]?fstream|[io]?stringstream|[io]+stream)|[io]+stream"
    r"|ios_base|locale|use_facet|has_facet)\b"
)


def symbols(path: Path) -> list[tuple[str, str]]:
    """The kinds (nm's letters) and names of an object's symbols."""
    lines = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
    return [(line[17:18], line[19:]) for line in lines]


def streams(path: Path) -> list[str]:
    used = [name for _, name in symbols(path) if STREAMS.search(name)]
    return [f"{path}: uses iostreams or locales: {used[0]}"] if used else []


def complaints(path: Path) -> list[str]:
    isa = path.parts[-4].removeprefix("kernels_").removesuffix(".dir")
    found = []
    exported = []
    for kind, name in symbols(path):
        if kind in "WVuvw":
            found.append(f"{path}: weak symbol {name}")
        elif kind.isupper() and kind not in "NU":  # not what debuggers read, and not what is elsewhere
            exported.append(name)
    if exported != [f"fusedrnn::kernels_{isa}"]:
        found.append(f"{path}: expected to export fusedrnn::kernels_{isa} alone, exports {exported}")
    return found


def objects_in(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix in (".o", ".obj"))


def main() -> None:
    folder = Path(sys.argv[1])
    objects = objects_in(folder, "**/kernels_*.dir/csrc/cpu/kernels.cpp.*")
    if not objects:
        sys.exit(f"no kernels.cpp.o below {folder}")
    others = objects_in(folder, "**/_core.dir/csrc/**/*")
    if not others:
        sys.exit(f"no objects of _core below {folder}")
    found = [c for path in objects for c in complaints(path)]
    found += [c for path in objects + others for c in streams(path)]
    if found:
        sys.exit("\n".join(found))
    print(f"{len(objects)} objects export their kernel table and nothing else")
    print(f"{len(objects + others)} objects use no iostreams and no locales")


if __name__ == "__main__":
    main()
