#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "../cpu/threads.hpp"
#include "../empty.hpp"
#include "fastcall.hpp"
#include "gil.hpp"
#include "register.hpp"
#include "stack.hpp"

namespace fusedrnn {

namespace {

const PyStack& stack_of(const py::object& o) {
  if (!py::isinstance<PyStack>(o)) throw py::type_error(wrong_type("stack", "a Stack", type_name(o)));
  return o.cast<const PyStack&>();
}

// The states of a stream in one format, and what runs a step on them. A step reads the states of one turn and writes
// the other's. One call at a time (PyStream).
class StreamStates {
 public:
  explicit StreamStates(const py::object& stack) : owner_(stack) {}
  virtual ~StreamStates() = default;
  StreamStates(const StreamStates&) = delete;
  StreamStates& operator=(const StreamStates&) = delete;
  const py::object& owner() const { return owner_; }  // of the stack
  virtual py::object step(py::handle x, py::handle out, py::handle resets) = 0;
  virtual py::tuple states() const = 0;
  virtual void set_states(const py::tuple& given) = 0;
  virtual void set_start(py::handle start) = 0;
  virtual void reset(const std::vector<int64_t>& rows) = 0;
  // The same states, on a stack of the same sizes.
  virtual std::unique_ptr<StreamStates> copy(const py::object& stack) const = 0;

 private:
  const py::object owner_;
};

constexpr int64_t kMostRows = int64_t{1} << 40;

// A stream runs one step at a time. In the child of a fork, a step of the parent's that no thread goes on with is over:
// it has written only to the states of the other turn.
class Busy {
 public:
  using Flag = std::atomic<int>;  // 0, or 1 + the forks before the process of the call

  explicit Busy(Flag& flag) : flag_(flag) {
    const int mine = forks() + 1;
    if (flag_.exchange(mine) == mine) {
      throw std::runtime_error("stream: expected one call at a time, got one during another");
    }
  }
  ~Busy() { flag_ = 0; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  Flag& flag_;
};

template <class F>
class StreamOf final : public StreamStates {
 public:
  using T = typename F::Compute;

  StreamOf(const py::object& stack, int64_t batch) : StreamStates(stack), s_(stack_of(stack)), batch_(batch) {
    start_.resize(s_.facts().clocked ? static_cast<std::size_t>(batch) : 0);
    for (int i = 0; i < s_.facts().states; ++i) {
      for (Buffer& buffer : states_[i]) {
        buffer = Buffer(static_cast<std::size_t>(s_.runs() * batch * size(i)) * sizeof(T));
        empty(i, buffer.as<T>(), s_.runs() * batch);
      }
    }
    for (int turn = 0; turn < 2; ++turn) prepare(turn);
  }

  py::object step(py::handle x, py::handle out, py::handle resets) override {
    const bool single = batch_ == 1 && py::isinstance<py::array>(x) && proxy(x)->nd == 1;
    const int64_t I = s_.first().input, P = size(0);
    const auto in = single ? read_input<T>("x", "(input_size,)", {I}, x, false)
                           : read_input<T>("x", "(batch_size, input_size)", {batch_, I}, x, false);
    py::object result;
    T* y = nullptr;
    if (!out.is_none()) {
      y = single ? write_output<T>("out", single_symbols_, {P}, out)
                 : write_output<T>("out", y_symbols_, {batch_, P}, out);
      require_apart("out", out, "x", x);
      result = py::reinterpret_borrow<py::object>(out);
    } else {
      auto array = single ? new_array<T>("y", {P}) : new_array<T>("y", {batch_, P});
      y = data_of(array);
      result = std::move(array);
    }
    std::vector<std::uint8_t> begins;
    if (!resets.is_none()) begins = read_resets(kBatchSymbols, {batch_}, resets);
    Stack<F>& stack = turns_[turn_];
    for (Layer<F>& layer : stack.layers) layer.direction[0].p.resets = begins.empty() ? nullptr : begins.data();
    stack.layers[0].direction[0].p.x = in.data;
    without_gil([&] {
      run_forward(stack);
      std::memcpy(y, stack.layers.back().direction[0].p.y, static_cast<std::size_t>(batch_ * P) * sizeof(T));
    });
    turn_ = 1 - turn_;
    for (std::size_t row = 0; row < start_.size(); ++row) {
      start_[row] = !begins.empty() && begins[row] ? 1 : start_[row] + 1;
    }
    return result;
  }

  py::tuple states() const override {
    py::tuple all(s_.facts().states);
    for (int i = 0; i < s_.facts().states; ++i) {
      auto array = new_array<T>("state", {s_.runs(), batch_, size(i)});
      std::memcpy(data_of(array), now(i), states_[i][turn_].bytes());
      all[static_cast<std::size_t>(i)] = array;
    }
    return all;
  }

  void set_states(const py::tuple& given) override {
    require_count("state", given, s_.first());
    Input<T> in[kMaxStates];
    for (int i = 0; i < s_.facts().states; ++i) {
      const std::string name = s_.first().cell->states[static_cast<std::size_t>(i)].now.text;
      in[i] = read_input<T>(name.c_str(), s_.state_symbols(i).c_str(), {s_.runs(), batch_, size(i)},
                            given[static_cast<std::size_t>(i)], true);
    }
    for (int i = 0; i < s_.facts().states; ++i) {
      const std::size_t bytes = states_[i][turn_].bytes();
      if (in[i].data)
        std::memcpy(now(i), in[i].data, bytes);
      else
        empty(i, now(i), s_.runs() * batch_);
    }
  }

  // The steps that clocks have counted: zeros for None.
  void set_start(py::handle start) override {
    if (start.is_none()) return std::fill(start_.begin(), start_.end(), 0);
    const auto given = read_start(start, batch_);
    if (start_.empty()) throw py::value_error(not_taken(names().start.text, s_.facts().name, type_name(start)));
    start_ = given;
  }

  void reset(const std::vector<int64_t>& rows) override {
    for (const int64_t row : rows) {
      if (row < 0 || row >= batch_) {
        throw py::value_error("rows: expected values in 0..batch_size-1 = 0.." + std::to_string(batch_ - 1) + ", got " +
                              std::to_string(row));
      }
    }
    for (const int64_t row : rows) {
      if (!start_.empty()) start_[static_cast<std::size_t>(row)] = 0;
      for (int i = 0; i < s_.facts().states; ++i) {
        for (int64_t layer = 0; layer < s_.runs(); ++layer) {
          empty(i, now(i) + (layer * batch_ + row) * size(i), 1);
        }
      }
    }
  }

  std::unique_ptr<StreamStates> copy(const py::object& stack) const override {
    auto other = std::make_unique<StreamOf>(stack, batch_);
    for (int i = 0; i < s_.facts().states; ++i) std::memcpy(other->now(i), now(i), states_[i][turn_].bytes());
    other->start_ = start_;
    other->point_clocks();
    return other;
  }

 private:
  int64_t size(int i) const { return s_.first().state_size(i); }
  // Makes so many rows of a state empty.
  void empty(int i, T* rows, int64_t count) const {
    std::fill_n(rows, count * size(i), static_cast<T>(value_of(s_.facts().state[i].empty)));
  }
  T* now(int i) const { return states_[i][turn_].template as<T>(); }

  void point_clocks() {
    for (Stack<F>& turn : turns_) {
      for (Layer<F>& layer : turn.layers) layer.direction[0].p.start = start_.empty() ? nullptr : start_.data();
    }
  }

  // A layer's y is its new h, and the input of the layer above.
  void prepare(int turn) {
    Stack<F>& stack = turns_[turn] = s_.stack<F>(1, batch_);
    for (int l = 0; l < s_.layers; ++l) {
      Problem<T>& p = stack.layers[static_cast<std::size_t>(l)].direction[0].p;
      for (int i = 0; i < s_.facts().states; ++i) {
        const int64_t at = l * batch_ * size(i);
        p.state0[i] = states_[i][turn].template as<T>() + at;
        p.state_n[i] = states_[i][1 - turn].template as<T>() + at;
      }
      p.y = p.state_n[0];
      p.state_n[0] = nullptr;
      p.y_stride = size(0);
      if (l == 0) continue;
      const Problem<T>& below = stack.layers[static_cast<std::size_t>(l) - 1].direction[0].p;
      p.x = below.y;
      if (s_.facts().below) p.below = below.state_n[1];
    }
    point_clocks();
  }

  const PyStack& s_;
  const int64_t batch_;
  Buffer states_[kMaxStates][2];
  std::vector<int64_t> start_;
  Stack<F> turns_[2];
  int turn_ = 0;
  const bool projects_ = s_.facts().projection >= 0;
  const char* const y_symbols_ = projects_ ? "(batch_size, proj_size)" : "(batch_size, hidden_size)";
  const char* const single_symbols_ = projects_ ? "(proj_size,)" : "(hidden_size,)";
};

// All calls run alone, those that read too: any thread may call at any time, with a GIL or without one.
struct PyStream {
  explicit PyStream(std::unique_ptr<StreamStates> made) : states(std::move(made)) {}

  template <class Call>
  auto alone(Call&& call) const {
    const Busy busy(flag);
    return call(*states);
  }

  std::unique_ptr<StreamStates> states;
  mutable Busy::Flag flag{0}, refreshing{0};
};

std::unique_ptr<PyStream> make_stream(const py::object& stack, int64_t batch) {
  const PyStack& s = stack_of(stack);
  if (s.directions != 1) throw py::value_error("stack: expected one direction, got two");
  require_positive("batch_size", batch, kMostRows);
  if (!s.shape().fits(1, batch)) throw py::value_error(too_large("batch_size", {batch}));
  return std::make_unique<PyStream>(s.with_format([&](auto format) -> std::unique_ptr<StreamStates> {
    return std::make_unique<StreamOf<decltype(format)>>(stack, batch);
  }));
}

bool same_kind(const PyStack& a, const PyStack& b) {
  return a.layers == b.layers && b.directions == 1 && a.first().is_like(b.first()) &&
         a.first().input == b.first().input;
}

// The states of a stream, on a stack that may have other weights.
std::unique_ptr<StreamStates> states_on(const StreamStates& from, const py::object& stack) {
  if (!same_kind(stack_of(from.owner()), stack_of(stack)))
    throw py::value_error("stack: expected one of the same sizes");
  return from.copy(stack);
}

// Another stream with the same states and weights.
std::unique_ptr<PyStream> copy_of(const PyStream& from) {
  return std::make_unique<PyStream>(from.alone([](const StreamStates& states) { return states.copy(states.owner()); }));
}

// The same stream on the stack that `look` returns: its states change place in one store, so that a child forked
// meanwhile has either. Steps may go on while `look` packs weights. Another refresh may not: one that looked before
// parameters changed could end after one that looked later.
void refresh(PyStream& stream, const py::function& look) {
  std::unique_ptr<StreamStates> other;  // the old ones go once the call is over, as Python code may run then
  const Busy refreshing(stream.refreshing);
  const py::object stack = look();
  const Busy busy(stream.flag);
  other = states_on(*stream.states, stack);
  stream.states.swap(other);
}

py::object step_method(const PyStream& stream, FastArguments a) {
  return stream.alone([&](StreamStates& states) { return states.step(a[0], a[1], a[2]); });
}
PyMethodDef kStep = fast_definition("step", fast_method<PyStream, step_method, 3>,
                                    "step(x: ndarray, out: ndarray | None, resets: ndarray | None) -> ndarray");

}  // namespace

void register_streams(py::module_& m) {
  py::class_<PyStream> stream(m, "Stream", py::custom_type_setup(refuse_new<7>), py::is_final(),
                              "The states of a stack that runs step by step.");
  add_method(stream, kStep);
  stream
      .def_property_readonly(
          "stack", [](const PyStream& stream) { return stream.alone([](const StreamStates& s) { return s.owner(); }); })
      .def("states",
           [](const PyStream& stream) { return stream.alone([](const StreamStates& s) { return s.states(); }); })
      .def("set_states", [](const PyStream& stream,
                            const py::tuple& states) { stream.alone([&](StreamStates& s) { s.set_states(states); }); })
      .def("set_start",
           [](const PyStream& stream, py::handle start) { stream.alone([&](StreamStates& s) { s.set_start(start); }); })
      .def("reset", [](const PyStream& stream,
                       const std::vector<int64_t>& rows) { stream.alone([&](StreamStates& s) { s.reset(rows); }); })
      .def("copy", &copy_of)
      .def("refresh", &refresh, py::arg("look"));
  m.attr("MOST_ROWS") = kMostRows;
  m.def("make_stream", &make_stream, py::arg("stack"), py::arg("batch_size"));
}

}  // namespace fusedrnn
