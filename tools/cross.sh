#!/usr/bin/env bash
# The core and the stress test for other systems, on Linux: compiles and links both for Windows and macOS by Zig's
# clang (pip install ziglang), and runs the one for Windows under Wine (apt-get install wine). Its results must have
# the bits of the one for this machine.
#
#     tools/cross.sh
set -euo pipefail
cd "$(dirname "$0")/.."
for preset in portable windows macos-x86_64 macos-arm64; do
  printf '\n=== %s (%d s)\n' "$preset" "$SECONDS"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" -j "$(nproc)" >/dev/null
done
printf '\n=== stress (%d s)\n' "$SECONDS"
here=$(build/portable/stress brief)
there=$(WINEDEBUG=-all WINEPREFIX=$PWD/build/wine wine build/windows/stress.exe brief | tr -d '\r')
printf 'here:\n%s\nWindows:\n%s\n' "$here" "$there"
bits() { grep -o 'bits [0-9a-f]*' <<<"$1"; }
[ "$(bits "$here")" = "$(bits "$there")" ] || { echo "the bits differ"; exit 1; }
python3 tools/check_symbols.py build/windows
printf '\n=== done (%d s)\n' "$SECONDS"
