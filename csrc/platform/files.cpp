#include <locale.h>

#include <cstdlib>

#include "platform.hpp"
#include "windows.hpp"
#if defined(_WIN32)
#include <wchar.h>
#else
#include <sys/stat.h>
#endif
#if defined(__APPLE__)
#include <xlocale.h>
#endif

namespace fusedrnn {

#if defined(_WIN32)

FileKind file_kind(const std::string& path) {
  const DWORD attributes = GetFileAttributesW(wide(path).c_str());
  if (attributes == INVALID_FILE_ATTRIBUTES) return FileKind::none;
  return attributes & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_DEVICE) ? FileKind::other : FileKind::file;
}
std::FILE* open_to_read(const std::string& path) { return _wfopen(wide(path).c_str(), L"rbN"); }
double number_in_c_locale(const char* text, char** end) {
  static const _locale_t c_locale = _create_locale(LC_ALL, "C");
  return _strtod_l(text, end, c_locale);
}

#else

FileKind file_kind(const std::string& path) {
  struct stat about;
  if (stat(path.c_str(), &about) != 0) return FileKind::none;
  return S_ISREG(about.st_mode) ? FileKind::file : FileKind::other;
}
std::FILE* open_to_read(const std::string& path) { return std::fopen(path.c_str(), "rbe"); }
double number_in_c_locale(const char* text, char** end) {
  static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
  return strtod_l(text, end, c_locale);
}

#endif

}  // namespace fusedrnn
