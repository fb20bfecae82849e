// What operating systems do differently: Linux, macOS and Windows. All other sources are standard C++ and call these.
// Paths are bytes as Python's os.fsencode gives them, which is UTF-8 on Windows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif
#if !defined(_WIN32)
#include <signal.h>
#endif

namespace fusedrnn {

// memory.cpp

// Memory that begins at a multiple of `align`, a power of two, of which `bytes` is a multiple; null if there is none.
// Only free_aligned frees it.
void* allocate_aligned(std::size_t align, std::size_t bytes) noexcept;
void free_aligned(void* memory) noexcept;

// The size of the huge pages that a process may wish for; 0 where it may not.
#if defined(__linux__)
constexpr std::size_t kHugePage = 2u << 20;
#else
constexpr std::size_t kHugePage = 0;
#endif
// Wishes for huge pages in this memory, which begins at a multiple of kHugePage; the system may refuse.
void wish_for_huge_pages(void* memory, std::size_t bytes) noexcept;

// cpus.cpp

// The CPUs that affinity and a container's quota, rounded up, leave this process; at least 1. Of processors with fast
// and slow cores, on macOS the fast ones: workers wait for each other in every step.
int count_usable_cpus();

// The bytes of the caches that a core reads through, as the system tells them; 0 for what it does not tell.
struct CacheSizes {
  double l1 = 0, l2 = 0, l3 = 0;
};
CacheSizes cache_sizes();

// Whether the processor has the instructions that kernels are compiled for, and the system saves their registers: AVX2
// with FMA; AVX-512 F, DQ, VL and BW.
bool has_avx2();
bool has_avx512();

// process.cpp

// Calls this in the child of each fork from now on; false if it could not be arranged. Windows has no fork.
bool call_in_children(void (*in_child)());
std::int64_t process_id();
// The end of the process, which another thread brings about.
[[noreturn]] void wait_for_the_end();

// Blocks all signals of the calling thread while it lives, and so of threads that are made meanwhile: signals to the
// process are for threads of the process's own. Windows sends none.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
#if !defined(_WIN32)
  sigset_t before_;
#endif
};

// What unwinds the stack of a thread that ends itself with glibc's pthread_exit; elsewhere nothing throws it.
#if defined(__GLIBCXX__)
using ForcedUnwind = abi::__forced_unwind;
#else
struct ForcedUnwind {};
#endif

// files.cpp

enum class FileKind { none, file, other };
FileKind file_kind(const std::string& path);
// Opens a file to read its bytes, which no other program inherits; null, and errno says why, where it cannot be opened.
std::FILE* open_to_read(const std::string& path);
// A decimal number as the C locale writes it, whatever the process has set; `end` as of strtod.
double number_in_c_locale(const char* text, char** end);

// libraries.cpp

// A library by its path or, looked for where the system keeps its own, by its name; null if it cannot be loaded.
void* open_library(const std::string& path);
void close_library(void* library);
// Its function of this name, or null.
using AnyFunction = void (*)();
AnyFunction find_function(void* library, const char* name);

// Whether `loaded_library` sees the libraries of the process. On Windows it sees none: no OpenMP runtime there has the
// entry point that we call (cpu/openmp.hpp).
#if defined(_WIN32)
constexpr bool kListsLibraries = false;
#else
constexpr bool kListsLibraries = true;
#endif
// A number that is another one when libraries have been loaded since, and 0 if none are seen. On macOS it is the same
// if as many have been unloaded.
unsigned long long count_loaded_libraries();
// The path of the first loaded library that is `wanted`, or nothing.
std::string loaded_library(bool (*wanted)(const char* path));
// A library that is loaded, which stays loaded; null if it is not.
void* open_loaded_library(const char* path);

}  // namespace fusedrnn
