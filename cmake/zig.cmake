# Builds for another system on Linux, by Zig, which is clang with the headers and libraries of Windows (MinGW's) and of
# macOS: pip install ziglang. FUSEDRNN_ZIG_TARGET names the target as Zig does: x86_64-windows-gnu, aarch64-macos, ...
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FUSEDRNN_ZIG_TARGET)
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR "${FUSEDRNN_ZIG_TARGET}")
if(FUSEDRNN_ZIG_TARGET MATCHES "windows")
  set(CMAKE_SYSTEM_NAME Windows)
else()
  set(CMAKE_SYSTEM_NAME Darwin)
endif()
find_program(FUSEDRNN_ZIG NAMES python-zig zig REQUIRED)
# Optimised or not, Zig checks for undefined behaviour unless it is told otherwise.
set(CMAKE_CXX_COMPILER ${FUSEDRNN_ZIG} c++ -target ${FUSEDRNN_ZIG_TARGET} -fno-sanitize=undefined)
