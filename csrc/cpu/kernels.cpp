// The one file that is compiled once per ISA. Everything above the table has internal linkage, so that the linker can
// never take a function compiled for one ISA in place of another's; tools/check_symbols.py holds the objects to it.
#include "../cells/cells.hpp"
#include "../problem.hpp"
#include "backward.hpp"
#include "batched.hpp"
#include "forward.hpp"
#include "gemm.hpp"
#include "pack.hpp"
#include "probe.hpp"

namespace {

using fusedrnn::CellFacts;
using fusedrnn::CellKernels;
using fusedrnn::kCells;
using fusedrnn::Kernels;

template <class Cell, class T>
std::size_t backward_local_bytes(const Problem<T>& p, int64_t rows, int64_t tiles) {
  const Gradients<T> g{};
  const Worker w{0, 1, 0, rows, 0, tiles, nullptr, nullptr, nullptr, nullptr};
  Arena recurrent{nullptr}, batched{nullptr};
  Backward<Cell, T>{p, g, w}.layout(recurrent);
  Batched<Cell, T>{p, g, w}.layout(batched);
  return recurrent.used > batched.used ? recurrent.used : batched.used;
}

template <class Cell, class T>
void backward_entry(const Problem<T>& p, const Gradients<T>& g, const Worker& w) {
  Backward<Cell, T>{p, g, w}.run();
  meet(w.all_barrier);
  Batched<Cell, T>{p, g, w}.run();
}

template <class Cell, class T>
constexpr CellKernels<T> cell_kernels() {
  return {Forward<Cell, T, false>::local_bytes, Forward<Cell, T, false>::shared_bytes, Forward<Cell, T, false>::entry,
          Forward<Cell, T, true>::entry,        backward_local_bytes<Cell, T>,         backward_entry<Cell, T>};
}

template <class Cell>
constexpr CellFacts cell_facts(const char* name) {
  CellFacts f{};
  f.name = name;
  f.gates = Cell::kGates;
  f.states = Cell::kStates;
  f.slots = Cell::kSlots;
  f.phases = Cell::kPhases;
  for (int gate = 0; gate < Cell::kGates; ++gate) f.split[gate] = Cell::split(gate);
  for (int j = 0; j < Cell::input_columns().count; ++j) {
    f.input_gates[j] = Cell::column_gate(Cell::input_columns().first + j);
  }
  for (int phase = 0; phase < Cell::kPhases; ++phase) {
    f.phase[phase].first_gate = Cell::phase_gates(phase).first;
    f.phase[phase].gates = Cell::phase_gates(phase).count;
    for (int j = 0; j < Cell::phase_columns(phase).count; ++j) {
      f.phase[phase].column_gates[j] = Cell::column_gate(Cell::phase_columns(phase).first + j);
    }
  }
  return f;
}

// Tails go through the same vector arithmetic as whole vectors.
template <class T, class F>
RNN_INLINE void map(const T* x, T* y, int64_t n, F&& f) {
  using V = Vec<T>;
  for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
    const auto lanes = lanes_of<V>(tile, n);
    f(V::load(x + tile * V::width, lanes)).store(y + tile * V::width, lanes);
  }
}

template <class T>
void map_sigmoid(const T* x, T* y, int64_t n) {
  map(x, y, n, [](Vec<T> v) { return sigmoid(v); });
}

template <class T>
void map_tanh(const T* x, T* y, int64_t n) {
  map(x, y, n, [](Vec<T> v) { return tanh(v); });
}

#define RNN_FACTS(name, Cell) cell_facts<Cell>(#name),
#define RNN_F32(name, Cell) cell_kernels<Cell, float>(),
#define RNN_F64(name, Cell) cell_kernels<Cell, double>(),

}  // namespace

namespace fusedrnn {

extern const Kernels RNN_KERNELS_NAME;
const Kernels RNN_KERNELS_NAME = {
    kIsaName,
    {RNN_CELLS(RNN_FACTS)},
    Vec<float>::width,
    Vec<double>::width,
    {RNN_CELLS(RNN_F32)},
    {RNN_CELLS(RNN_F64)},
    {pack_gates<float>, pack_transposed<float>},
    {pack_gates<double>, pack_transposed<double>},
    {map_sigmoid<float>, map_tanh<float>},
    {map_sigmoid<double>, map_tanh<double>},
    {probe_fma<float>, probe_read<float>},
    {probe_fma<double>, probe_read<double>},
};

}  // namespace fusedrnn
