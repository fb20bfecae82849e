#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../reserve.hpp"
#include "../run.hpp"
#include "arguments.hpp"
#include "fastcall.hpp"
#include "gil.hpp"
#include "masks.hpp"
#include "register.hpp"
#include "results.hpp"

namespace fusedrnn {

namespace {

constexpr int64_t kMostPlanned = int64_t{1} << 30;  // steps, or rows, of a call that is only planned

// The outputs of a sequence, of which `p` gets the pointers: y, the last states, and c of every step for cells that
// give it.
template <class T>
void new_outputs(const PyWeights& w, const Sizes& n, Problem<T>& p, Results& results) {
  p.y = results.add<T>(names().y, {n.seq_len, n.batch, n.proj});
  for (int s = 0; s < w.facts().states; ++s) {
    const StateNames& state = w.cell->states[static_cast<std::size_t>(s)];
    p.state_n[s] = results.add<T>(state.last, {n.batch, w.state_size(s)});
  }
  if (w.facts().below) p.c = results.add<T>(names().c, {n.seq_len, n.batch, n.hidden});
}

template <class F, class T = typename F::Compute>
py::dict infer(const PyWeights& w, const Weights<F>& weights, py::handle x, const py::tuple& states, py::handle lengths,
               py::handle reverse, const py::dict& inputs) {
  const SequenceArguments<T> call(w, x, states, lengths, reverse, inputs);
  Problem<T> p = call.problem();
  Results results;
  new_outputs(w, call.n, p, results);
  without_gil([&] { run_forward(weights, p); });
  return results.take();
}

// The arguments of a call as backward reads them again: contiguous, and copies where the caller's may change.
template <class T>
py::tuple kept_arguments(const SequenceArguments<T>& call, const py::tuple& states) {
  py::tuple kept(states.size());
  for (std::size_t s = 0; s < states.size(); ++s) kept[s] = or_none(call.states[s].owner);
  py::object inputs = py::none();
  if (call.below.owner || !call.start.empty() || !call.resets.empty() || call.reset_states.given() ||
      !call.masks.is_none()) {
    inputs = py::dict();
    if (call.below.owner) inputs[names().c_below.c_str()] = call.below.owner;
    if (!call.start.empty()) inputs[names().start.c_str()] = integers(call.start);
    if (!call.resets.empty()) inputs[names().resets.c_str()] = bools(call.resets, {call.n.seq_len, call.n.batch});
    if (!call.masks.is_none()) inputs[names().masks.c_str()] = call.masks;
    if (call.reset_states.given()) {
      inputs[names().reset_state.c_str()] = call.reset_states.owners(static_cast<int>(states.size()));
    }
  }
  return py::make_tuple(call.x.owner, kept, call.has_lengths ? integers(call.lengths) : py::object(py::none()),
                        py::bool_(call.reverse), inputs);
}

// Points the problem to its reserve in `memory`; the bytes of the reserve, which it only measures where that is null.
template <class T>
std::size_t place_reserve(const PyWeights& w, const Sizes& n, Problem<T>& p, char* memory) {
  p.hidden = n.hidden;
  p.proj = n.proj;
  Arena arena(memory);
  take_reserve(arena, p, w.facts(), false);
  return arena.used;
}

// The results; the object for backward, which has the reserve's memory and the arguments; and the bytes of the memory.
template <class F, class T = typename F::Compute>
py::tuple forward(const PyWeights& w, const Weights<F>& weights, py::handle x, const py::tuple& states,
                  py::handle lengths, py::handle reverse, const py::dict& inputs) {
  const SequenceArguments<T> call(w, x, states, lengths, reverse, inputs);
  MaskArguments masks(call.masks);
  Problem<T> p = call.problem();
  p.drop.options = w.options;
  p.drop.source = masks.of(w, call.n.seq_len, call.n.batch);
  Results results;
  new_outputs(w, call.n, p, results);
  auto memory = std::make_unique<PyMemory>();
  memory->buffer = Buffer(place_reserve(w, call.n, p, nullptr));
  place_reserve(w, call.n, p, memory->buffer.data());
  without_gil([&] { run_forward(weights, p); });
  const std::size_t bytes = memory->buffer.bytes();
  const py::tuple kept = py::make_tuple(py::cast(std::move(memory)), kept_arguments(call, states));
  return py::make_tuple(results.take(), kept, bytes);
}

[[noreturn]] void fail_kept() { throw py::type_error(kBadKept); }

template <class Object>
Object checked(const py::object& o) {
  if (!py::isinstance<Object>(o)) fail_kept();
  return py::reinterpret_borrow<Object>(o);
}

// The object that forward returned for backward.
struct Kept {
  py::object memory, x, lengths, reverse;
  py::tuple states;
  py::dict inputs;

  explicit Kept(const py::tuple& kept) {
    if (kept.size() != 2) fail_kept();
    memory = kept[0];
    const auto arguments = checked<py::tuple>(kept[1]);
    if (arguments.size() != 5 || !py::isinstance<PyMemory>(memory)) fail_kept();
    x = arguments[0];
    states = checked<py::tuple>(arguments[1]);
    lengths = arguments[2];
    reverse = arguments[3];
    if (!py::object(arguments[4]).is_none()) inputs = checked<py::dict>(arguments[4]);
  }
};

template <class F, class T = typename F::Compute>
py::dict backward(const PyWeights& w, const Weights<F>& weights, const py::tuple& kept, py::handle dy,
                  const py::tuple& dstates, py::handle dc) {
  const Kept from(kept);
  SequenceArguments<T> call(w, from.x, from.states, from.lengths, from.reverse, from.inputs);
  const Sizes& n = call.n;
  const Buffer& memory = from.memory.cast<const PyMemory&>().buffer;
  Problem<T> p = call.problem();
  MaskArguments masks(call.masks);
  p.drop.options = w.options;
  p.drop.source = masks.of(w, n.seq_len, n.batch);
  if (memory.bytes() != place_reserve(w, n, p, nullptr)) throw py::value_error(kBadKept);
  place_reserve(w, n, p, memory.data());
  const auto in_dy = read_input<T>("dy", y_symbols(w), {n.seq_len, n.batch, n.proj}, dy, true);
  const auto in_dc = read_input<T>(names().dc.c_str(), kSequenceSymbols, {n.seq_len, n.batch, n.hidden}, dc, true);
  if (in_dc.data && !w.facts().below) {
    throw py::value_error(not_taken(names().dc.text, w.facts().name, type_name(dc)));
  }
  require_count("dstates", dstates, w);
  Results results;
  Gradients<T> g{};
  Input<T> in_states[kMaxStates];
  for (int s = 0; s < w.facts().states; ++s) {
    in_states[s] = read_state<T>(w, s, &StateNames::gradient_last, n.batch, dstates[static_cast<std::size_t>(s)]);
    g.dstate_n[s] = in_states[s].data;
  }
  g.dy = in_dy.data;
  g.dy_stride = n.proj;
  g.dc = in_dc.data;
  g.dx = results.add<T>(names().dx, {n.seq_len, n.batch, n.input});
  for (int s = 0; s < w.facts().states; ++s) {
    const StateNames& state = w.cell->states[static_cast<std::size_t>(s)];
    g.dstate0[s] = results.add<T>(state.gradient_first, {n.batch, w.state_size(s)});
    g.dreset[s] = call.reset_states.add_gradient(s, state.gradient_reset, results);
  }
  if (call.below.data)
    g.dbelow = results.add<T>(names().dc_below, {n.seq_len, n.batch, n.hidden});
  else if (w.facts().below)
    results.set(names().dc_below, py::none());
  const WeightGradients<T> dweights(w, g, results);
  without_gil([&] {
    run_backward(weights, p, g);
    call.reset_states.add_up();
  });
  return results.take();
}

// The states of one step: new arrays, or the caller's arrays, which must overlap no input and not each other.
template <class T>
py::tuple step_outputs(const PyWeights& w, int64_t batch, py::handle x, const FurtherInputs& further,
                       const py::tuple& states, const py::tuple& out, Problem<T>& p) {
  py::tuple results(out.size());
  for (std::size_t s = 0; s < out.size(); ++s) {
    T*& to = s == 0 ? p.y : p.state_n[s];
    const StateNames& state = w.cell->states[s];
    const int64_t units = w.state_size(static_cast<int>(s));
    const py::handle given = out[s];
    if (given.is_none()) {
      auto array = new_array<T>(state.now.c_str(), {batch, units});
      to = data_of(array);
      results[s] = std::move(array);
      continue;
    }
    const char* const name = state.out.c_str();
    to = write_output<T>(name, state.symbols.c_str(), {batch, units}, given);
    require_apart(name, given, "x", x);
    require_apart(name, given, names().c_below.c_str(), further.below);
    for (std::size_t i = 0; i < states.size(); ++i) {
      require_apart(name, given, w.cell->states[i].now.c_str(), states[i]);
      if (further.reset_state.is_none()) continue;
      require_apart(name, given, w.cell->states[i].reset.c_str(),
                    py::reinterpret_borrow<py::tuple>(further.reset_state)[i]);
    }
    for (std::size_t i = 0; i < s; ++i) require_apart(name, given, w.cell->states[i].out.c_str(), results[i]);
    results[s] = py::reinterpret_borrow<py::object>(given);
  }
  return results;
}

template <class F, class T = typename F::Compute>
py::tuple step(const PyWeights& w, const Weights<F>& weights, py::handle x, const py::tuple& states,
               const py::tuple& out, const py::dict& inputs) {
  const char* const x_symbols = "(batch_size, input_size)";
  require_array("x", x);
  require_rank("x", x_symbols, 2, x);
  const int64_t batch = proxy(x)->dimensions[0];
  if (!call_fits(w.facts(), w.hidden, w.input, 1, batch, w.heads)) throw py::value_error(too_large("x", dims_of(x)));
  const auto in_x = read_input<T>("x", x_symbols, {batch, w.input}, x, false);
  require_count("states", states, w);
  require_count("out", out, w);
  Problem<T> p{};
  p.seq_len = 1;
  p.batch = batch;
  p.y_stride = w.proj;
  p.x = in_x.data;
  const FurtherInputs further(w, inputs);
  const auto in_below =
      read_input<T>(names().c_below.c_str(), "(batch_size, hidden_size)", {batch, w.hidden}, further.below, true);
  p.below = in_below.data;
  std::vector<int64_t> steps_before;
  if (!further.start.is_none()) steps_before = read_start(further.start, batch);
  p.start = steps_before.empty() ? nullptr : steps_before.data();
  std::vector<std::uint8_t> resets;
  if (!further.resets.is_none()) resets = read_resets(kBatchSymbols, {batch}, further.resets);
  p.resets = resets.empty() ? nullptr : resets.data();
  ResetStates<T> reset_states;
  if (!further.reset_state.is_none()) reset_states = read_reset_states<T>(w, batch, further.reset_state);
  Input<T> in[kMaxStates];
  for (int s = 0; s < w.facts().states; ++s) {
    in[s] = read_state<T>(w, s, &StateNames::now, batch, states[static_cast<std::size_t>(s)]);
    p.state0[s] = in[s].data;
    p.reset_state[s] = reset_states.data(s);
  }
  py::tuple results = step_outputs(w, batch, x, further, states, out, p);
  without_gil([&] { run_forward(weights, p); });
  return results;
}

py::object infer_method(const PyWeights& w, FastArguments a) {
  return w.with([&](const auto& weights) -> py::object {
    return infer(w, weights, a[0], tuple_of(a[1]), a[2], a[3], dict_of(a[4]));
  });
}
py::object forward_method(const PyWeights& w, FastArguments a) {
  return w.with([&](const auto& weights) -> py::object {
    return forward(w, weights, a[0], tuple_of(a[1]), a[2], a[3], dict_of(a[4]));
  });
}
py::object backward_method(const PyWeights& w, FastArguments a) {
  return w.with([&](const auto& weights) -> py::object {
    return backward(w, weights, tuple_of(a[0]), a[1], tuple_of(a[2]), a[3]);
  });
}
py::object step_method(const PyWeights& w, FastArguments a) {
  return w.with([&](const auto& weights) -> py::object {
    return step(w, weights, a[0], tuple_of(a[1]), tuple_of(a[2]), dict_of(a[3]));
  });
}

template <py::object (*kBody)(const PyWeights&, FastArguments), int kCount>
constexpr FastCall method = fast_method<PyWeights, kBody, kCount>;

// The values of a dict by a tuple of names; None where it has none.
py::object by_names(FastArguments a) {
  const py::tuple fields = tuple_of(a[0]);
  const py::dict results = dict_of(a[1]);
  py::tuple values(fields.size());
  for (std::size_t i = 0; i < fields.size(); ++i) {
    values[i] = item_or_none(results, PyTuple_GET_ITEM(fields.ptr(), static_cast<Py_ssize_t>(i)));
  }
  return std::move(values);
}
PyMethodDef kByNames =
    fast_definition("by_names", fast_function<by_names, 2>, "by_names(names: tuple, results: dict) -> tuple");

PyMethodDef kMethods[] = {
    fast_definition(
        "infer", method<infer_method, 5>,
        "infer(x: ndarray, states: tuple, lengths: Sequence[int] | None, reverse: bool, inputs: dict) -> dict"),
    fast_definition(
        "forward", method<forward_method, 5>,
        "forward(x: ndarray, states: tuple, lengths: Sequence[int] | None, reverse: bool, inputs: dict) -> tuple"),
    fast_definition("backward", method<backward_method, 4>,
                    "backward(kept: tuple, dy: ndarray | None, dstates: tuple, dabove: ndarray | None) -> dict"),
    fast_definition("step", method<step_method, 4>,
                    "step(x: ndarray, states: tuple, out: tuple, inputs: dict) -> tuple"),
};

}  // namespace

void register_calls(py::module_& m) {
  // Made here, and not by whichever call is the first: Python strings are made meanwhile, and a thread that waits for
  // it could not be stopped, as a free-threaded Python does for its garbage collector.
  names();
  py::class_<PyMemory>(m, "Memory", py::custom_type_setup(refuse_new<3>), py::is_final(), "The memory of a reserve.")
      .def_property_readonly("nbytes", [](const PyMemory& memory) { return memory.buffer.bytes(); });
  auto weights = py::reinterpret_borrow<py::class_<PyWeights>>(m.attr("Weights"));
  for (PyMethodDef& definition : kMethods) add_method(weights, definition);
  weights.def(
      "schedule",
      [](const PyWeights& w, int64_t seq_len, int64_t batch, int threads, bool backward) {
        require_positive("seq_len", seq_len, kMostPlanned);
        require_positive("batch_size", batch, kMostPlanned);
        if (threads != 0) require_positive("threads", threads, kMostThreads);
        const Shares shares =
            w.with([&](const auto& weights) { return shares_of(weights, seq_len, batch, threads, backward); });
        return std::tuple(shares.schedule.row_parts, shares.schedule.tile_parts, shares.each);
      },
      py::arg("seq_len"), py::arg("batch_size"), py::arg("threads") = 0, py::arg("backward") = false);
  weights.def(
      "cost",
      [](const PyWeights& w, int64_t seq_len, int64_t batch, int rows, int units, int workers, bool backward) {
        require_positive("seq_len", seq_len, kMostPlanned);
        require_positive("batch_size", batch, kMostPlanned);
        require_positive("rows", rows, kMostThreads);
        require_positive("units", units, kMostThreads);
        require_positive("workers", workers, kMostThreads);
        return w.with([&](const auto& weights) {
          return cost_of(weights, seq_len, batch, Schedule{rows, units}, workers, backward);
        });
      },
      py::arg("seq_len"), py::arg("batch_size"), py::arg("rows"), py::arg("units"), py::arg("workers"),
      py::arg("backward"));
  add_function(m, kByNames);
  m.def("read_lengths", [](py::handle lengths, int64_t batch, int64_t seq_len) {
    return integers(read_lengths(lengths, batch, seq_len));
  });
  m.def("read_start", [](py::handle start, int64_t batch) { return integers(read_start(start, batch)); });
}

}  // namespace fusedrnn
