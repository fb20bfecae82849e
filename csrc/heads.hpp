// Heads: a recurrence that is block-diagonal. The units of a layer are cut into heads of equal size, one after the
// other, and a unit sees h_prev of its own head alone. The units of each head are cut into tiles by themselves, so that
// no tile has units of two heads; tiles are counted through all heads. A cell without heads has one.
#pragma once

#include <cstdint>

// Internal linkage: kernels.cpp, which is compiled once per ISA, calls these when it runs.
namespace {

struct Heads {
  std::int64_t count;
  std::int64_t units, tiles;  // of each head
  std::int64_t lanes;

  Heads(std::int64_t hidden, std::int64_t heads, std::int64_t lanes_of_tile)
      : count(heads),
        units(heads == 1 ? hidden : hidden / heads),
        tiles((units + lanes_of_tile - 1) / lanes_of_tile),
        lanes(lanes_of_tile) {}

  std::int64_t all_tiles() const { return count * tiles; }
  // The unit with which a tile begins; all units for the end of the last one.
  std::int64_t unit_of(std::int64_t tile) const {
    const std::int64_t head = count == 1 ? 0 : tile / tiles, unit = (tile - head * tiles) * lanes;
    return unit < units ? head * units + unit : (head + 1) * units;
  }
  // Whether each of so many equal parts of all tiles has whole heads: then none needs anything of another.
  bool are_whole(std::int64_t parts) const { return count % parts == 0; }
  // Of so many units or k of a layer, those of one head.
  std::int64_t share(std::int64_t n) const { return count == 1 ? n : n / count; }
};

}  // namespace
