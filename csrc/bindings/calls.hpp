// The four calls of every cell: inference, training forward, backward, one step.
#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "../run.hpp"
#include "arguments.hpp"
#include "arrays.hpp"
#include "gil.hpp"
#include "weights.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

// What backward needs of forward. Used up by backward, which turns its memory into gradients.
template <class T>
struct Reserve {
  Call<T> call;
  py::array_t<T> y;
  Buffer slots;
};

struct PyReserve {
  CellId cell;
  std::optional<Reserve<float>> f32;
  std::optional<Reserve<double>> f64;
  std::size_t nbytes;
  std::atomic<bool> used{false};
  std::string dtype;
  Sizes n;
  py::object device;  // fusedrnn._cuda's reserve, in place of f32 and f64
};

// The outputs of a sequence, of which `p` gets the pointers: y, the last states, and c of every step for cells that
// give it. The tuple has room for one more.
template <class T>
py::tuple new_outputs(const PyWeights& w, const Sizes& n, Problem<T>& p, bool one_more) {
  const bool has_c = w.facts().below;
  py::tuple out(static_cast<std::size_t>(1 + w.states + has_c + one_more));
  auto y = new_array<T>("y", {n.seq_len, n.batch, n.hidden});
  p.y = data_of(y);
  out[0] = std::move(y);
  for (int s = 0; s < w.states; ++s) {
    auto state = new_array<T>(kStateNames[s], {n.batch, w.facts().state[s].units * n.hidden});
    p.state_n[s] = data_of(state);
    out[1 + static_cast<std::size_t>(s)] = std::move(state);
  }
  if (has_c) {
    auto c = new_array<T>("c", {n.seq_len, n.batch, n.hidden});
    p.c = data_of(c);
    out[static_cast<std::size_t>(1 + w.states)] = std::move(c);
  }
  return out;
}

template <class T>
py::tuple infer(py::handle w, py::handle x, const py::tuple& states, py::handle lengths, py::handle reverse,
                py::handle below, py::handle start) {
  const Call<T> call = read_call<T>(w, x, states, lengths, reverse, below, start);
  Problem<T> p = call.problem();
  py::tuple out = new_outputs(weights_of(w), call.n, p, false);
  without_gil([&] { run_forward(*call.weights, p); });
  return out;
}

// The outputs, and the reserve.
template <class T>
py::tuple forward(py::handle w, py::handle x, const py::tuple& states, py::handle lengths, py::handle reverse,
                  py::handle below, py::handle start) {
  Call<T> call = read_call<T>(w, x, states, lengths, reverse, below, start);
  const Sizes n = call.n;
  const PyWeights& weights = weights_of(w);
  Problem<T> p = call.problem();
  py::tuple out = new_outputs(weights, n, p, true);
  const int64_t slots = weights.facts().slots;
  Buffer buffer(checked_bytes("reserve", {n.seq_len, n.batch, slots, n.hidden}, sizeof(T)));
  p.slots = buffer.as<T>();
  without_gil([&] { run_forward(*call.weights, p); });

  auto reserve = std::make_unique<PyReserve>();
  reserve->cell = weights.cell;
  reserve->nbytes = buffer.bytes();
  reserve->dtype = DType<T>::name;
  reserve->n = n;
  Reserve<T> kept{std::move(call), py::reinterpret_borrow<py::array_t<T>>(out[0]), std::move(buffer)};
  if constexpr (std::is_same_v<T, float>)
    reserve->f32.emplace(std::move(kept));
  else
    reserve->f64.emplace(std::move(kept));
  out[out.size() - 1] = py::cast(std::move(reserve));
  return out;
}

// The gradients of weights, as arrays and as what `g` points to.
template <class T>
struct WeightGradients {
  py::object weight_ih, weight_hh = py::none(), bias_ih = py::none(), bias_hh = py::none(), vectors = py::none();
  py::list matrices;

  WeightGradients(const PyWeights& w, Gradients<T>& g) {
    const CellFacts& f = w.facts();
    const int64_t H = w.hidden;
    const auto make = [](const char* name, std::initializer_list<int64_t> dims, py::object& to) -> T* {
      auto array = new_array<T>(name, dims);
      T* const data = data_of(array);
      to = std::move(array);
      return data;
    };
    g.dweight_ih = make("dweight_ih", {w.gates * H, w.input}, weight_ih);
    if (f.matrices > 0) g.dmatrix[0] = make("dweight_hh", {f.recurrent_gates * H, H}, weight_hh);
    for (int m = 1; m < f.matrices; ++m) {
      py::object matrix;
      g.dmatrix[m] = make("dmatrix", {f.matrix[m].blocks * H, f.matrix[m].depth * H}, matrix);
      matrices.append(matrix);
    }
    if (w.has_bias_ih) g.dbias_ih = make("dbias_ih", {w.gates * H}, bias_ih);
    if (w.has_bias_hh) g.dbias_hh = make("dbias_hh", {f.recurrent_gates * H}, bias_hh);
    if (f.vectors > 0) g.dvectors = make("dvectors", {f.vectors * H}, vectors);
  }

  // Those of the vectors, then of the blocks, that were given; None for the others.
  void append_named(const PyWeights& w, py::list& to) const {
    int64_t first = 0;
    for (const Named& vector : w.vectors) {
      const py::slice range(first * w.hidden, (first + vector.gates) * w.hidden, 1);
      to.append(vector.given ? py::object(vectors[range]) : py::none());
      first += vector.gates;
    }
    for_each_block(w, [&](const Named& block, int matrix, int64_t gate, int64_t) {
      if (!block.given) return to.append(py::none());
      const py::slice rows(gate * w.hidden, (gate + block.gates) * w.hidden, 1);
      to.append(py::object(py::object(matrices[static_cast<std::size_t>(matrix - 1)])[rows]));
    });
  }
};

[[noreturn]] void fail_used() {
  throw py::value_error("reserve: expected one that no backward has used, got one that has been used");
}

// dx, the gradients of the initial states, dweight_ih, dweight_hh, dbias_ih, dbias_hh, those of vectors and blocks,
// and, for cells that read c of the layer below, that of c_below.
template <class T>
py::list backward(PyReserve& reserve, const Reserve<T>& kept, py::handle dy, const py::tuple& dstates, py::handle dc) {
  const Sizes& n = kept.call.n;
  const PyWeights& weights = weights_of(kept.call.weights_object);
  const auto in_dy = read_input<T>("dy", kSequenceSymbols, {n.seq_len, n.batch, n.hidden}, dy, true);
  const auto in_dc = read_input<T>("dc", kSequenceSymbols, {n.seq_len, n.batch, n.hidden}, dc, true);
  if (in_dc.data && !weights.facts().below) {
    throw py::value_error(std::string("dc: expected None for cell '") + weights.facts().name + "', got numpy.ndarray");
  }
  require_count("dstates", dstates, weights);
  Gradients<T> g{};
  Input<T> in_states[kMaxStates];
  for (int s = 0; s < weights.states; ++s) {
    in_states[s] = read_state<T>(weights, s, kGradientNames, n.batch, dstates[s]);
    g.dstate_n[s] = in_states[s].data;
  }
  py::list out;
  auto dx = new_array<T>("dx", {n.seq_len, n.batch, n.input});
  g.dy = in_dy.data;
  g.dc = in_dc.data;
  g.dx = data_of(dx);
  py::object dbelow = py::none();
  if (kept.call.below.data) {
    auto array = new_array<T>("dc_below", {n.seq_len, n.batch, n.hidden});
    g.dbelow = data_of(array);
    dbelow = std::move(array);
  }
  out.append(std::move(dx));
  for (int s = 0; s < weights.states; ++s) {
    auto dstate0 = new_array<T>(kStateNames[s], {n.batch, weights.facts().state[s].units * n.hidden});
    g.dstate0[s] = data_of(dstate0);
    out.append(std::move(dstate0));
  }
  const WeightGradients<T> dweights(weights, g);
  Problem<T> p = kept.call.problem();
  p.slots = kept.slots.template as<T>();
  p.h = data_of(kept.y);
  if (reserve.used.exchange(true)) fail_used();
  try {
    without_gil([&] { run_backward(*kept.call.weights, p, g); });
  } catch (...) {
    reserve.used = false;  // run_backward throws before it writes anything
    throw;
  }
  for (const py::object& o : {dweights.weight_ih, dweights.weight_hh, dweights.bias_ih, dweights.bias_hh})
    out.append(o);
  dweights.append_named(weights, out);
  if (weights.facts().below) out.append(dbelow);
  return out;
}

py::list backward_any(py::handle h, py::handle dy, const py::tuple& dstates, py::handle dc) {
  if (!py::isinstance<PyReserve>(h)) {
    throw py::type_error("reserve: expected a Reserve, as forward returns it, got " + type_name(h));
  }
  auto& reserve = h.cast<PyReserve&>();
  if (reserve.device) {
    require_count("dstates", dstates, weights_of(py::object(reserve.device.attr("weights_object"))));
    if (reserve.used.exchange(true)) fail_used();
    try {
      return py::list(reserve.device.attr("backward")(dy, dstates, dc));
    } catch (...) {
      // A kernel that was launched overwrites the reserve.
      reserve.used = reserve.device.attr("launched").cast<bool>();
      throw;
    }
  }
  if (reserve.f32) return backward(reserve, *reserve.f32, dy, dstates, dc);
  if (reserve.f64) return backward(reserve, *reserve.f64, dy, dstates, dc);
  throw py::value_error("reserve: expected one that forward returned, got an empty one");
}

// One step. `out` is None for each state, or arrays to write to; returns h, or a tuple of states.
template <class T>
py::object step(py::handle weights, py::handle x, const py::tuple& states, const py::tuple& out, py::handle below,
                py::handle start) {
  const PyWeights& w = weights_of(weights);
  const char* x_symbols = "(batch_size, input_size)";
  require_array("x", x);
  require_rank("x", x_symbols, 2, x);
  const int64_t batch = proxy(x)->dimensions[0];
  checked_bytes("x", {batch, w.input + w.hidden * w.facts().slots}, sizeof(T));
  const auto in_x = read_input<T>("x", x_symbols, {batch, w.input}, x, false);
  require_count("states", states, w);
  require_count("out", out, w);
  Problem<T> p{};
  p.seq_len = 1;
  p.batch = batch;
  p.input = w.input;
  p.hidden = w.hidden;
  p.x = in_x.data;
  const auto in_below = read_below<T>(w, "(batch_size, hidden_size)", {batch, w.hidden}, below);
  p.below = in_below.data;
  const auto steps_before = read_start(w, batch, start);
  p.start = steps_before.empty() ? nullptr : steps_before.data();
  Input<T> in[kMaxStates];
  for (int s = 0; s < w.states; ++s) {
    in[s] = read_state<T>(w, s, kStateNames, batch, states[s]);
    p.state0[s] = in[s].data;
  }
  py::object results[kMaxStates];
  for (int s = 0; s < w.states; ++s) {
    T*& to = s == 0 ? p.y : p.state_n[s];
    const int64_t units = w.facts().state[s].units * w.hidden;
    if (py::handle(out[s]).is_none()) {
      auto array = new_array<T>(kStateNames[s], {batch, units});
      to = data_of(array);
      results[s] = std::move(array);
      continue;
    }
    const char* const name = kOutNames[s];
    to = write_output<T>(name, state_symbols(w.facts().state[s].units), {batch, units}, out[s]);
    require_apart(name, out[s], "x", x);
    require_apart(name, out[s], "c_below", below);
    for (int i = 0; i < w.states; ++i) require_apart(name, out[s], kStateNames[i], states[i]);
    for (int i = 0; i < s; ++i) require_apart(name, out[s], kOutNames[i], results[i]);
    results[s] = py::reinterpret_borrow<py::object>(out[s]);
  }
  without_gil([&] { run_forward(w.get<T>(), p); });
  if (w.states == 1) return std::move(results[0]);
  py::tuple all(static_cast<std::size_t>(w.states));
  for (int s = 0; s < w.states; ++s) all[static_cast<std::size_t>(s)] = std::move(results[s]);
  return std::move(all);
}

// Calls on weights that lie on a GPU are fusedrnn._cuda's: see there.
py::tuple forward_on_device(const PyWeights& weights, py::handle w, py::handle x, const py::tuple& states,
                            py::handle lengths, py::handle reverse) {
  const py::tuple out = weights.device.attr("forward")(w, x, states, lengths, reverse);
  const py::object kept = out[out.size() - 1];
  auto reserve = std::make_unique<PyReserve>();
  reserve->cell = weights.cell;
  reserve->nbytes = kept.attr("nbytes").cast<std::size_t>();
  reserve->dtype = py::str(kept.attr("dtype"));
  reserve->n = {kept.attr("seq_len").cast<int64_t>(), kept.attr("batch_size").cast<int64_t>(), weights.input,
                weights.hidden};
  reserve->device = kept;
  py::tuple all(out.size());
  for (std::size_t i = 0; i + 1 < out.size(); ++i) all[i] = out[i];
  all[out.size() - 1] = py::cast(std::move(reserve));
  return all;
}

// What no cell that runs on a GPU takes; `below` and `start` are refused as on the CPU.
void require_device_call(const PyWeights& w, const py::tuple& states, py::handle below, py::handle start) {
  require_count("states", states, w);
  read_below<float>(w, "", {}, below);
  read_start(w, 0, start);
}

// device(weights) for weights on a GPU, else f32(...) or f64(...), by their dtype.
template <class Device, class F32, class F64, class... Args>
auto by_place(Device&& device, F32&& f32, F64&& f64, py::handle w, const Args&... args) {
  const PyWeights& weights = weights_of(w);
  if (weights.f32) return f32(w, args...);
  return weights.device ? device(weights) : f64(w, args...);
}

}  // namespace
}  // namespace fusedrnn
