// Windows' own header without its macros, and its texts. Included by the sources of this folder alone.
#pragma once

#if defined(_WIN32)

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

#include <string>

namespace fusedrnn {

// A path as Windows wants it: from UTF-8, or, where it is not that, from the code page in which getenv gives texts.
inline std::wstring wide(const std::string& path) {
  const int size = static_cast<int>(path.size());
  for (const bool utf8 : {true, false}) {
    const UINT page = utf8 ? CP_UTF8 : CP_ACP;
    const DWORD flags = utf8 ? MB_ERR_INVALID_CHARS : 0;
    std::wstring text(path.size(), L'\0');  // no character becomes longer
    const int units = MultiByteToWideChar(page, flags, path.data(), size, &text[0], size);
    if (units == 0) continue;
    text.resize(static_cast<std::size_t>(units));
    return text;
  }
  return {};
}

}  // namespace fusedrnn

#endif
