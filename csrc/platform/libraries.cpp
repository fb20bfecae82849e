#include "platform.hpp"
#include "windows.hpp"

#if defined(__APPLE__)
#include <mach-o/dyld.h>
#elif !defined(_WIN32)
#include <link.h>
#endif
#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace fusedrnn {

#if defined(_WIN32)

// A bare name is never looked for in the folder that the process happens to be in, where anyone may have left a file.
void* open_library(const std::string& path) {
  const bool bare = path.find_first_of("/\\") == std::string::npos;
  return LoadLibraryExW(wide(path).c_str(), nullptr, bare ? LOAD_LIBRARY_SEARCH_DEFAULT_DIRS : 0);
}
void close_library(void* library) { FreeLibrary(static_cast<HMODULE>(library)); }
AnyFunction find_function(void* library, const char* name) {
  return reinterpret_cast<AnyFunction>(GetProcAddress(static_cast<HMODULE>(library), name));
}

unsigned long long count_loaded_libraries() { return 0; }
std::string loaded_library(bool (*)(const char*)) { return {}; }
void* open_loaded_library(const char*) { return nullptr; }

#else

void* open_library(const std::string& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); }
void close_library(void* library) { dlclose(library); }
AnyFunction find_function(void* library, const char* name) {
  return reinterpret_cast<AnyFunction>(dlsym(library, name));
}
void* open_loaded_library(const char* path) { return dlopen(path, RTLD_LAZY | RTLD_NOLOAD); }

#endif

#if defined(__APPLE__)

unsigned long long count_loaded_libraries() { return _dyld_image_count(); }
std::string loaded_library(bool (*wanted)(const char*)) {
  for (std::uint32_t i = 0; i < _dyld_image_count(); ++i) {
    const char* const path = _dyld_get_image_name(i);  // null if one has been unloaded meanwhile
    if (path && wanted(path)) return path;
  }
  return {};
}

#elif !defined(_WIN32)

unsigned long long count_loaded_libraries() {
  unsigned long long loaded = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        *static_cast<unsigned long long*>(data) = info->dlpi_adds;
        return 1;  // the first call knows
      },
      &loaded);
  return loaded;
}
std::string loaded_library(bool (*wanted)(const char*)) {
  struct Search {
    bool (*wanted)(const char*);
    std::string path;
  } search{wanted, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        auto& s = *static_cast<Search*>(data);
        if (!info->dlpi_name || !s.wanted(info->dlpi_name)) return 0;
        s.path = info->dlpi_name;
        return 1;
      },
      &search);
  return search.path;
}

#endif

}  // namespace fusedrnn
