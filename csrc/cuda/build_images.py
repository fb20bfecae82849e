"""Compiles kernels.cu into one file of images, for all architectures that the compiler knows.

    python build_images.py nvcc PATH_OF_NVCC kernels.fatbin
    python build_images.py nvrtc kernels.fatbin

The second needs no CUDA toolkit: NVRTC, the headers of the runtime and nvFatbin come from PyPI (tools/build_backend.py
names them). Both make machine code for each architecture (FUSEDRNN_CUDA_ARCHITECTURES="80 90" chooses some), and PTX of
the oldest, which all others can compile.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
# All others of a generation run the code of its first.
ARCHITECTURES = [int(a) for a in os.environ.get("FUSEDRNN_CUDA_ARCHITECTURES", "80 90 100 120").split()]
# The same operations in the same order as on the CPU, subnormals as zeros.
OPTIONS = ["-std=c++17", "--fmad=false", "--ftz=true"]

REQUIRES = "'nvidia-cuda-nvrtc-cu12>=12.4,<13' 'nvidia-cuda-runtime-cu12>=12.4,<13' nvidia-nvfatbin-cu12"

# NVRTC has no standard library; this is what the sources use of it.
HEADERS = {
    "cstdint": "namespace std { using int64_t = long; using uint8_t = unsigned char; using uint32_t = unsigned;"
    " using uint64_t = unsigned long; }",
    "cstddef": "namespace std { using size_t = unsigned long; }",
    "cmath": "namespace std { __device__ inline float sqrt(float v) { return ::sqrtf(v); }"
    " __device__ inline double sqrt(double v) { return ::sqrt(v); } }",
}


def known(architectures: str) -> list[int]:
    """Of those that we want, the ones in a compiler's list."""
    listed = {int(n) for n in re.findall(r"\d+", architectures)}
    return [a for a in ARCHITECTURES if a in listed]


def with_nvcc(nvcc: str, to: Path) -> None:
    listed = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout
    names = known(listed)
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in names]
    targets.append(f"-gencode=arch=compute_{names[0]},code=compute_{names[0]}")
    options = [*OPTIONS, "--expt-relaxed-constexpr", f"--threads={os.cpu_count()}", "-Xfatbin", "-compress-all"]
    options += ["-Xptxas", "--warn-on-spills,--warning-as-error", "-Werror", "all-warnings"]
    subprocess.run([nvcc, "-fatbin", *options, *targets, "-o", str(to), str(HERE / "kernels.cu")], check=True)
    print(f"nvcc: sm_{', sm_'.join(map(str, names))}: {to.stat().st_size} bytes")


class Library:
    """A C library whose functions return 0 for success."""

    def __init__(self, package: str, pattern: str, prefix: str) -> None:
        root = next(
            (Path(p) / "nvidia" for p in sys.path if list(Path(p).glob(f"nvidia/{package}/lib/{pattern}"))), None
        )
        if root is None:
            raise SystemExit(f"nvidia/{package}/lib/{pattern} not found: pip install {REQUIRES}")
        self.root, self.prefix = root, prefix
        self.library = ctypes.CDLL(str(next((root / package / "lib").glob(pattern))))

    def call(self, name: str, *arguments: object) -> None:
        result = getattr(self.library, self.prefix + name)(*arguments)
        if result:
            raise SystemExit(f"{self.prefix}{name} failed: {result}")

    def text(self, name: str, handle: ctypes.c_void_p) -> bytes:
        """What a pair of functions gives: `name`Size and `name`."""
        size = ctypes.c_size_t()
        self.call(f"{name}Size", handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(name, handle, buffer)
        return buffer.raw


def compile_with(nvrtc: Library, target: str) -> bytes:
    """Machine code for sm_N, PTX for compute_N."""
    headers = [text.encode() for text in HEADERS.values()]
    names = [name.encode() for name in HEADERS]
    program, n = ctypes.c_void_p(), len(headers)
    source = (HERE / "kernels.cu").read_bytes()
    arrays = [(ctypes.c_char_p * n)(*values) for values in (headers, names)]
    nvrtc.call("CreateProgram", ctypes.byref(program), source, str(HERE / "kernels.cu").encode(), n, *arrays)
    includes = [f"-I{HERE}", f"-I{nvrtc.root / 'cuda_runtime' / 'include'}"]
    options = [o.encode() for o in (*OPTIONS, f"--gpu-architecture={target}", "--device-as-default-execution-space",
                                    "--diag-suppress=177", *includes)]  # fmt: skip
    result = nvrtc.library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    if result:
        raise SystemExit(nvrtc.text("GetProgramLog", program).decode(errors="replace"))
    return nvrtc.text("GetCUBIN" if target.startswith("sm") else "GetPTX", program)


def with_nvrtc(to: Path) -> None:
    nvrtc = Library("cuda_nvrtc", "libnvrtc.so.12", "nvrtc")
    nvfatbin = Library("nvfatbin", "libnvfatbin.so.12", "nvFatbin")
    count = ctypes.c_int()
    nvrtc.call("GetNumSupportedArchs", ctypes.byref(count))
    listed = (ctypes.c_int * count.value)()
    nvrtc.call("GetSupportedArchs", listed)
    names = known(" ".join(map(str, listed)))
    targets = [*(f"sm_{a}" for a in names), f"compute_{names[0]}"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = list(pool.map(lambda target: compile_with(nvrtc, target), targets))

    handle = ctypes.c_void_p()
    options = (ctypes.c_char_p * 3)(b"-64", b"-cuda", b"-compress-all")
    nvfatbin.call("Create", ctypes.byref(handle), options, len(options))
    for target, image in zip(targets, images, strict=True):
        arch = target.partition("_")[2].encode()
        if target.startswith("sm"):
            nvfatbin.call("AddCubin", handle, image, ctypes.c_size_t(len(image)), arch, b"kernels")
        else:
            nvfatbin.call("AddPTX", handle, image, ctypes.c_size_t(len(image)), arch, b"kernels", None)
    size = ctypes.c_size_t()
    nvfatbin.call("Size", handle, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    nvfatbin.call("Get", handle, buffer)
    to.write_bytes(buffer.raw)
    print(f"NVRTC: {', '.join(targets)}: {size.value} bytes")


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] not in (["nvcc"], ["nvrtc"]) or len(arguments) != {"nvcc": 3, "nvrtc": 2}[arguments[0]]:
        raise SystemExit(__doc__)
    path = Path(arguments[-1])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a build that breaks off leaves no half of a file
        part = Path(folder) / path.name
        if arguments[0] == "nvcc":
            with_nvcc(arguments[1], part)
        else:
            with_nvrtc(part)
        part.replace(path)


if __name__ == "__main__":
    main()
