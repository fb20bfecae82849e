// Files are read by C's stdio, never by iostreams. These look their facets up by ids of which a process has one set,
// so that in a module that carries its own libstdc++ they may get facets of another kind, and give wrong numbers or
// crash. tools/check_symbols.py holds the sources to it.
#pragma once

#include <cstddef>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "platform/platform.hpp"

namespace fusedrnn {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// The bytes of a file; none, and errno says why, where it cannot be opened or read to its end.
inline std::optional<std::string> read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, CloseFile> file(open_to_read(path));
  if (!file) return std::nullopt;
  std::string text;
  char part[4096];
  std::size_t n = 0;
  do {
    n = std::fread(part, 1, sizeof part, file.get());
    text.append(part, n);
  } while (n == sizeof part);
  if (std::ferror(file.get())) return std::nullopt;
  return text;
}

}  // namespace fusedrnn
