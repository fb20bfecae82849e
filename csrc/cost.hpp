// How long a layer takes under a schedule: a count of the calls of micro-kernels, with their leftover rows and tiles,
// of the cache lines that come from each level, and of the meetings of threads, each times what it costs on this
// machine.
#pragma once

#include <cstdint>

#include "machine.hpp"
#include "problem.hpp"

namespace fusedrnn {

// row_parts x tile_parts workers.
struct Schedule {
  int row_parts, tile_parts;
  int workers() const { return row_parts * tile_parts; }
};

// One layer in one direction.
struct LayerSize {
  std::int64_t seq_len, batch, input, hidden, proj, heads;
};

// What holds for all layers of a call.
struct Kind {
  const CellFacts* facts;
  const KernelShapes* shapes;
  int lanes;
  std::int64_t storage_bytes, compute_bytes;  // of an element of weights, and of all else
};

// Multiply-adds of a step of one row, with the input's.
double multiply_adds(const CellFacts& f, const LayerSize& z);
// Whether so many bytes of weights stay in the private cache of a core.
bool stay_private(const Machine& m, double bytes);

class CostModel {
 public:
  CostModel(const Machine& m, const Kind& kind, const LayerSize& size) : m_(m), k_(kind), f_(*kind.facts), z_(size) {}

  // Nanoseconds of forward and of backward, when the workers run already. The products of backward are shared among
  // `workers` workers, which may be more than the schedule's.
  double forward(const Schedule& s) const;
  double backward(const Schedule& s, int workers) const;

 private:
  // What the largest part of a schedule is.
  struct Part {
    std::int64_t rows, tiles, h_tiles;
  };
  Part largest(const Schedule& s) const;
  int parts_of_head(const Schedule& s) const;
  std::int64_t tiles_of(std::int64_t units) const { return (units + k_.lanes - 1) / k_.lanes; }
  double vector_bytes() const { return static_cast<double>(k_.lanes * k_.storage_bytes); }
  double kernel(std::int64_t rows, std::int64_t vectors, std::int64_t depth) const;
  double sweep(std::int64_t rows, std::int64_t tiles, int gates, std::int64_t depth, double line) const;
  // The same of tiles of units, head after head.
  double sweep_heads(std::int64_t rows, std::int64_t tiles, int gates, std::int64_t depth, double line) const;
  double sweep_forward(std::int64_t rows, std::int64_t tiles, int gates, std::int64_t depth, double line) const;
  double line(double bytes_each, double bytes_of_all, int workers) const;
  double meeting(int workers) const;
  // What one of `parts` workers that share rows reads of what the others have written: `elements` of all of them.
  double exchange(double elements, int parts) const;
  double borders(const Schedule& s) const;
  double steps_of_backward(const Schedule& s) const;
  double products_of_backward(int workers) const;

  const Machine& m_;
  const Kind& k_;
  const CellFacts& f_;
  const LayerSize& z_;
};

}  // namespace fusedrnn
