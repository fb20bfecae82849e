#!/usr/bin/env bash
# fusedrnn on an emulated 64-bit ARM: whether bits are those of the record, and tests pass.
#
#     tools/arm.sh FOLDER                     # all of what follows, with the quick cases of the record
#     tools/arm.sh FOLDER bits --cell gru     # tools/bits.py with these options; none: all cases, 11 minutes
#     tools/arm.sh FOLDER tests               # the quick tests
#     tools/arm.sh FOLDER stress              # tests/cpp/stress, brief
#     tools/arm.sh FOLDER loops               # tools/inner_loops.py: the instructions of micro-kernels
#
# What is made in FOLDER is kept for the next time. As root on Debian 12 it installs what it needs: g++-aarch64-linux-gnu,
# qemu-user-static, python3-venv. Nothing is installed for ARM: its Python lies in FOLDER.
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:?"expected a folder"}")
shift
mkdir -p "$folder"

prepare() {
  if ! command -v aarch64-linux-gnu-g++ || ! command -v qemu-aarch64-static || ! python3.11 -c "import ensurepip"; then
    apt-get update -qq
    apt-get install -qq --no-install-recommends g++-aarch64-linux-gnu qemu-user-static python3-venv
  fi >/dev/null
  if [ ! -e "$folder/venv/bin/ninja" ]; then
    python3.11 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet cmake ninja "pybind11>=3"
  fi
  PATH=$folder/venv/bin:$PATH
}

# Debian's Python for ARM, by a package list of its own.
python_for_arm() {
  [ ! -e "$folder/python" ] || return 0
  mkdir -p "$folder"/apt/{lists,cache/archives}/partial "$folder"/{debs,wheels,root,site}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main" \
    >"$folder/apt/sources.list"
  local apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
    -o "Dir::State::Lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt/cache" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::Etc::SourceList=$folder/apt/sources.list")
  "${apt[@]}" update
  (cd "$folder/debs" && "${apt[@]}" download python3.11 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
    libpython3.11-dev libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 \
    libncursesw6 libtinfo6 libreadline8 libuuid1 libcrypt1)
  for deb in "$folder"/debs/*.deb; do dpkg -x "$deb" "$folder/root"; done
  "$folder/venv/bin/pip" install --quiet --no-compile --target "$folder/site" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 --implementation cp --abi cp311 --python-version 3.11 \
    numpy "pytest>=7" "sybil>=8" "pytest-xdist>=3" "hypothesis>=6" "threadpoolctl>=3.5" "ml-dtypes>=0.4" "safetensors>=0.4"
  # Its own name is that of this file, so that the processes which tests start are emulated too.
  cat >"$folder/python" <<PYTHON
#!/bin/sh
PYTHONHOME=$folder/root/usr PYTHONPATH=\${PYTHONPATH:+\$PYTHONPATH:}$folder/package:$folder/site \\
  exec qemu-aarch64-static -0 $folder/python -L $folder/root $folder/root/usr/bin/python3.11 "\$@"
PYTHON
  chmod +x "$folder/python"
}

package() {
  python_for_arm
  cmake -G Ninja -S "$source" -B "$folder/build" -DCMAKE_TOOLCHAIN_FILE="$source/cmake/aarch64.cmake" \
    -DCMAKE_BUILD_TYPE=Release -DFUSEDRNN_WERROR=ON -DFUSEDRNN_CUDA=OFF -DPython_EXECUTABLE="$folder/venv/bin/python" \
    -DPython_INCLUDE_DIR="$folder/root/usr/include/python3.11" -DPYTHON_MODULE_EXTENSION=.cpython-311-aarch64-linux-gnu.so \
    -Dpybind11_DIR="$("$folder/venv/bin/python" -m pybind11 --cmakedir)" \
    -DCMAKE_CXX_FLAGS="${ARM_CXXFLAGS:-} -idirafter $folder/root/usr/include" >/dev/null
  ninja -C "$folder/build"
  rm -rf "$folder/package"
  mkdir "$folder/package"
  cp -r "$source/python/fusedrnn" "$folder/package"
  cp "$folder"/build/_core*.so "$folder/package/fusedrnn"
}

loops() {
  package
  python3 "$source/tools/inner_loops.py" "$folder/build/CMakeFiles/kernels_neon.dir/csrc/cpu/kernels.cpp.o"
}

stress() {
  cmake -G Ninja -S "$source" -B "$folder/stress" -DCMAKE_TOOLCHAIN_FILE="$source/cmake/aarch64.cmake" \
    -DCMAKE_BUILD_TYPE=Release -DFUSEDRNN_WERROR=ON -DFUSEDRNN_STRESS=ON -DCMAKE_CXX_FLAGS="${ARM_CXXFLAGS:-}" >/dev/null
  ninja -C "$folder/stress"
  qemu-aarch64-static -L /usr/aarch64-linux-gnu "$folder/stress/stress" brief
}

bits() {
  package
  "$folder/python" "$source/tools/bits.py" "$@"
}

tests() { # but for what needs a clock, or an installation; and the programs of README
  package
  cd "$source"
  "$folder/python" -m pytest -q -n 0 -p no:cacheprovider -m quick --ignore=tests/test_light.py --ignore-glob="tests/test_cuda*" \
    tests/test_{minimal,errors,errors_weights,clockwork,record,parity,bits,gradients}.py
  "$folder/python" -m pytest -q -n 0 -p no:cacheprovider "tests/test_docs.py::test_blocks[README]"
}

prepare
if [ $# -gt 0 ]; then
  time "$@"
else
  time loops
  time stress
  time bits --quick
  time tests
fi
