#include "cost.hpp"

#include <algorithm>
#include <cmath>

#include "packing.hpp"
#include "sizes.hpp"
#include "steps.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

constexpr double kLine = 64;   // bytes
constexpr double kOfL1 = 0.6;  // of a cache, what weights find free
constexpr double kOfL2 = 0.75;
constexpr double kHidden = 0.8;  // of the shorter of computing and fetching, what the longer hides
constexpr double kLatency = 4;   // cycles of a multiply-add

double to_double(int64_t n) { return static_cast<double>(n); }
int64_t share(int64_t n, int64_t parts) { return (n + parts - 1) / parts; }
Heads heads_of(const Kind& kind, const LayerSize& size) { return {size.hidden, size.heads, kind.lanes}; }

}  // namespace

double CostModel::meeting(int workers) const {
  return workers < 2 ? 0 : m_.meeting + m_.meeting_more * (std::log2(workers) - 1);
}

double CostModel::exchange(double elements, int parts) const {
  return elements * to_double(k_.compute_bytes) / kLine * (1 - 1.0 / parts) * m_.shared_line;
}

// What neighbours with different rows lose in a step: the line in which the states of one end and those of the other
// begin.
double CostModel::borders(const Schedule& s) const {
  const bool shares_lines = s.row_parts > 1 && z_.hidden * k_.compute_bytes % static_cast<int64_t>(kLine) != 0;
  return shares_lines ? f_.states * m_.shared_line : 0;
}

CostModel::Part CostModel::largest(const Schedule& s) const {
  const int64_t tiles = heads_of(k_, z_).all_tiles(), h_tiles = f_.projection < 0 ? tiles : tiles_of(z_.proj);
  return {share(z_.batch, s.row_parts), share(tiles, s.tile_parts), share(h_tiles, s.tile_parts)};
}

int CostModel::parts_of_head(const Schedule& s) const { return static_cast<int>(share(s.tile_parts, z_.heads)); }

// A chain of multiply-adds takes its latency, whatever else there is.
double CostModel::kernel(int64_t rows, int64_t vectors, int64_t depth) const {
  const double sums = to_double(rows * vectors), loads = to_double(rows + vectors) * m_.cycle / 2;
  const double each = std::max({kLatency * m_.cycle, sums * m_.fma, loads});
  return m_.kernel + to_double(depth) * each + to_double(share(std::max<int64_t>(depth, 1), kBlock)) * sums * m_.sum;
}

// As sweep() in cpu/sweep.hpp cuts it; `line`: of a cache line of weights, once for each pass.
double CostModel::sweep(int64_t rows, int64_t tiles, int gates, int64_t depth, double line) const {
  if (rows <= 0 || tiles <= 0) return 0;
  const KernelShapes& shapes = *k_.shapes;
  // All rows and so many tiles side by side, in groups of at most `most` rows.
  const auto column = [&](int64_t most, int log) {
    const int64_t groups = share(rows, most), size = rows / groups, larger = rows % groups;
    const int64_t vectors = int64_t{gates} << log;
    double sum = to_double(groups - larger) * kernel(size, vectors, depth);
    if (larger > 0) sum += to_double(larger) * kernel(size + 1, vectors, depth);
    return sum;
  };
  const int64_t most = shapes.most_rows(gates, tiles), groups = share(rows, most);
  const int widest = shapes.log_tiles[gates][share(rows, groups)];
  double computing = to_double(tiles >> widest) * column(most, widest);
  for (int log = 0; log < widest; ++log) {
    if (tiles >> log & 1) computing += column(shapes.most_rows(gates, 1 << log), log);
  }
  const double lines = to_double(tiles * gates * depth) * vector_bytes() / kLine;
  const double fetching = lines * to_double(share(groups, kGroupsTogether)) * line;
  return std::max(computing, fetching) + (1 - kHidden) * std::min(computing, fetching);
}

double CostModel::sweep_heads(int64_t rows, int64_t tiles, int gates, int64_t depth, double line) const {
  const int64_t each = std::min(tiles, heads_of(k_, z_).tiles);
  if (each <= 0) return 0;
  return to_double(tiles) / to_double(each) * sweep(rows, each, gates, depth, line);
}

// The same of a product of forward, which joins the gates of a head's short tile where it has all tiles of a head.
double CostModel::sweep_forward(int64_t rows, int64_t tiles, int gates, int64_t depth, double line) const {
  const Heads heads = heads_of(k_, z_);
  const int vectors = joined_vectors(f_, gates, heads.units, depth, k_.lanes);
  if (vectors == 0 || tiles < heads.tiles || rows * gates <= kChains) {
    return sweep_heads(rows, tiles, gates, depth, line);
  }
  return to_double(tiles) / to_double(heads.tiles) *
         (sweep(rows, heads.tiles - 1, gates, depth, line) + sweep(rows, 1, vectors, depth, line));
}

// Sweeps go to and fro, so that the next begins with what a cache still holds of the last one.
double CostModel::line(double bytes_each, double bytes_of_all, int workers) const {
  if (bytes_each <= kOfL1 * m_.l1_bytes) return 0;
  const double near = std::min(1.0, kOfL2 * m_.l2_bytes / bytes_each);
  const double far = bytes_of_all <= m_.l3_bytes ? m_.l3_line + m_.l3_more * (workers - 1) : m_.memory_line * workers;
  return near * m_.l2_line + (1 - near) * far;
}

double multiply_adds(const CellFacts& f, const LayerSize& z) {
  double sum = to_double(f.gates * z.hidden * z.input);
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    sum += to_double(p.gates * product_units(f, i, z.hidden, z.proj)) *
           to_double(operand_size(p.from, p.depth, z.hidden, z.proj) / z.heads);
  }
  return sum;
}

bool stay_private(const Machine& m, double bytes) { return bytes <= kOfL2 * m.l2_bytes; }

double CostModel::forward(const Schedule& s) const {
  const Part part = largest(s);
  const auto tiles = [&](int product) { return product == f_.projection ? part.h_tiles : part.tiles; };
  const auto depth = [&](int i) {
    return operand_size(f_.product[i].from, f_.product[i].depth, z_.hidden, z_.proj) / z_.heads;
  };
  double bytes = 0;
  for (int i = 0; i < f_.products; ++i) {
    bytes += to_double(tiles(i) * f_.product[i].gates * depth(i)) * vector_bytes();
  }
  const double of_line = line(bytes, bytes * s.tile_parts, s.workers());
  double step = borders(s) + to_double(part.rows) * m_.row;
  for (int i = 0; i < f_.products; ++i) {
    step += sweep_forward(part.rows, tiles(i), f_.product[i].gates, depth(i), of_line);
  }
  step += to_double(part.rows * part.tiles * f_.gates) * m_.pointwise;
  double phase = m_.step;
  if (!heads_of(k_, z_).are_whole(s.tile_parts)) {
    phase += meeting(s.tile_parts) + exchange(to_double(part.rows * z_.proj / z_.heads), parts_of_head(s));
  }
  step += f_.phases * phase;

  const double projected = to_double(part.rows * part.tiles * f_.gates * k_.lanes * k_.compute_bytes);
  const int64_t steps = std::clamp<int64_t>(static_cast<int64_t>(kProjectionBytes / projected), 1, z_.seq_len);
  const double input_bytes = to_double(part.tiles * f_.gates * z_.input) * vector_bytes();
  const double of_input = line(input_bytes, input_bytes * s.tile_parts, s.workers());
  const double projection = sweep_forward(part.rows * steps, part.tiles, f_.gates, z_.input, of_input);
  return to_double(z_.seq_len) * (step + projection / to_double(steps));
}

double CostModel::steps_of_backward(const Schedule& s) const {
  const Part part = largest(s);
  const auto depth = [&](int i) {
    const Product& p = f_.product[i];
    return p.depth > 0 ? p.gates * product_units(f_, i, z_.hidden, z_.proj) / z_.heads : 0;
  };
  const auto tiles = [&](int i) { return f_.product[i].from == From::h_prev ? part.h_tiles : part.tiles; };
  double bytes = 0, elements = 0;
  for (int i = 0; i < f_.products; ++i) {
    bytes += to_double(tiles(i) * f_.product[i].depth * depth(i)) * vector_bytes();
    elements += to_double(depth(i));
  }
  const double of_line = line(bytes, bytes * s.tile_parts, s.workers());
  double step =
      borders(s) + to_double(part.rows) * (m_.backward_row + to_double(part.tiles * f_.columns) * m_.backward);
  for (int i = 0; i < f_.products; ++i) {
    step += f_.product[i].depth * sweep_heads(part.rows, tiles(i), 1, depth(i), of_line);
  }
  double phase = m_.step;
  if (!heads_of(k_, z_).are_whole(s.tile_parts))
    phase += meeting(s.tile_parts) + exchange(to_double(part.rows) * elements, parts_of_head(s)) / f_.phases;
  return to_double(z_.seq_len) * (step + f_.phases * phase);
}

// dx, and the gradients of weights, of all chunks.
double CostModel::products_of_backward(int workers) const {
  const int64_t pairs = z_.seq_len * z_.batch;
  const int64_t chunk = std::min(pairs, std::max(kChunkPairs, z_.batch)), chunks = share(pairs, chunk);
  const int64_t input_tiles = tiles_of(z_.input), columns = f_.gates * z_.hidden;
  // As Batched::input_gradient shares it: rows, and inputs where rows are few.
  const int64_t row_parts = row_parts_of_dx(chunk, workers);
  const int64_t rows = share(chunk, row_parts), tiles = share(input_tiles, workers / row_parts);
  const double dx_bytes = to_double(tiles * columns) * vector_bytes();
  const int64_t together = std::min(rows, kRowsTogether);
  double each = sweep(together, tiles, 1, columns, line(dx_bytes, dx_bytes * to_double(workers / row_parts), workers)) *
                to_double(rows) / to_double(std::max<int64_t>(together, 1));
  const auto weights = [&](int64_t of_rows, int64_t width) {
    return sweep(share(of_rows, workers), tiles_of(width), 1, chunk, m_.l2_line);
  };
  each += weights(columns, z_.input);
  // Each worker copies all operands, and its share of the gradients, which it reads once more for the biases.
  int64_t copied = input_tiles + 2 * share(tiles_of(f_.columns * z_.hidden), workers);
  for (int i = 0; i < f_.products; ++i) {
    const Product& p = f_.product[i];
    const int64_t width = operand_size(p.from, p.depth, z_.hidden, z_.proj) / z_.heads;
    if (width > 0) each += weights(p.gates * product_units(f_, i, z_.hidden, z_.proj), width);
    copied += z_.heads * tiles_of(width);
  }
  each += to_double(chunk) * (m_.pair + to_double(copied) * m_.copy);
  // The gradients of its share, and h, which others have written.
  each += to_double(chunk) * exchange(to_double(f_.columns * z_.hidden) / workers + to_double(z_.proj), workers);
  return to_double(chunks) * (each + 2 * meeting(workers));
}

double CostModel::backward(const Schedule& s, int workers) const {
  return steps_of_backward(s) + products_of_backward(workers);
}

}  // namespace fusedrnn
