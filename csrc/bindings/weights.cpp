#include "weights.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "../platform/float_environment.hpp"
#include "fastcall.hpp"
#include "integers.hpp"
#include "register.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

// A clock for each of as many groups of equal size as there are periods.
void check_periods(const CellFacts& f, int64_t hidden, const std::vector<int64_t>& periods) {
  const auto count = static_cast<int64_t>(periods.size());
  if (!f.clocked) {
    if (count > 0) throw py::value_error(std::string("periods: expected none for cell '") + f.name + "'");
    return;
  }
  if (count == 0 || hidden % count != 0) {
    throw py::value_error("periods: expected as many as there are groups of equal size in hidden_size = " +
                          std::to_string(hidden) + " units, got " + std::to_string(count));
  }
  for (std::size_t i = 0; i < periods.size(); ++i) {
    const int64_t least = i == 0 ? 1 : periods[i - 1];
    if (periods[i] < least || periods[i] > kMostSteps) {
      throw py::value_error("periods: expected positive integers, none smaller than the one before, got " +
                            std::to_string(periods[i]) + " at index " + std::to_string(i));
    }
  }
}

// A unit sees no group with a shorter period than its own.
template <class T>
void check_unseen(const std::vector<Clock>& clocks, int64_t hidden, const T* weight_hh) {
  for (const Clock& clock : clocks) {
    for (int64_t unit = clock.first; unit < clock.last; ++unit) {
      for (int64_t k = 0; k < clock.first; ++k) {
        const T v = weight_hh[unit * hidden + k];
        if (v == T(0)) continue;
        throw py::value_error("weight_hh: expected zeros where a unit would see a group with a shorter period, got " +
                              text_of(py::float_(v)) + " at index (" + std::to_string(unit) + ", " + std::to_string(k) +
                              ")");
      }
    }
  }
}

// To nearest, whatever the caller's rounding is.
template <class T>
T rounded(double value) {
  const FloatEnvironment environment;
  return static_cast<T>(value);
}

// The arrays of one cell, read and joined as the native cell has them.
template <class T>
class Parts {
 public:
  explicit Parts(const PyWeights& w)
      : w_(w), arrays_{}, vectors_(static_cast<std::size_t>(w.facts().vectors * w.hidden)) {
    if (!vectors_.empty()) arrays_.vectors = vectors_.data();
    inputs_.reserve(w.cell->parameters.size());
  }

  void read(const Parameter& p, py::handle array) {
    const int64_t rows = w_.rows_of(p);
    switch (p.role) {
      case Role::weight_ih:
        arrays_.weight_ih = read_one(p, {rows, w_.input}, array);
        break;
      case Role::bias_ih:
        arrays_.bias_ih = read_one(p, {rows}, array);
        break;
      case Role::bias_hh:
        arrays_.bias_hh = read_one(p, {rows}, array);
        break;
      case Role::vector:
        copy(read_one(p, {rows}, array), rows, vectors_.data() + p.first * w_.hidden);
        break;
      case Role::matrix:
        read_rows(p, read_one(p, {rows, w_.columns_of(p)}, array));
        break;
    }
  }
  WeightArrays<T>& arrays() { return arrays_; }

 private:
  const T* read_one(const Parameter& p, std::initializer_list<int64_t> dims, py::handle array) {
    inputs_.push_back(read_input<T>(p.name.c_str(), symbols_of(p, w_.heads).c_str(), dims, array, !p.required));
    return inputs_.back().data;
  }
  static void copy(const T* from, int64_t count, T* to) {
    if (from) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
  }
  // A matrix that several parameters make up is joined, with zeros for a parameter that is None.
  void read_rows(const Parameter& p, const T* from) {
    const int64_t row = w_.rows_of(p) / p.gates * w_.columns_of(p), gates = w_.facts().matrix[p.matrix].blocks;
    if (p.gates == gates && from) {
      arrays_.matrix[p.matrix] = from;
      return;
    }
    std::vector<T>& joined = joined_[p.matrix];
    joined.resize(static_cast<std::size_t>(gates * row));
    arrays_.matrix[p.matrix] = joined.data();
    copy(from, p.gates * row, joined.data() + p.first * row);
  }

  const PyWeights& w_;
  WeightArrays<T> arrays_;
  std::vector<T> vectors_, joined_[kMaxMatrices];
  std::vector<Input<T>> inputs_;
};

template <class F>
void fill(PyWeights& w, const py::dict& arrays, double epsilon) {
  using T = typename F::Compute;
  Parts<T> parts(w);
  w.given.reserve(w.cell->parameters.size());
  for (const Parameter& p : w.cell->parameters) {
    const py::object array = item_or_none(arrays, p.name.object);
    w.given.push_back(!array.is_none());
    parts.read(p, array);
  }
  check_periods(w.facts(), w.hidden, w.periods);
  WeightArrays<T>& all = parts.arrays();
  all.epsilon = rounded<T>(epsilon);
  const std::vector<Clock> clocks = clocks_of(w.periods, w.hidden);
  check_unseen(clocks, w.hidden, all.matrix[0]);
  all.clocks = clocks.data();
  all.clock_count = static_cast<int>(clocks.size());
  const WeightView<T> view{w.cell->id, w.input, w.hidden, w.proj, w.heads, all, w.options, w.activations};
  w.weights = std::make_unique<Weights<F>>(view);
}

// Fills the weights if `format` is this one, or if there is none and arrays of its type have this dtype.
template <class F>
bool fill_as(PyWeights& w, const py::dict& arrays, double epsilon, py::handle weight_ih,
             const std::optional<std::string>& format) {
  using Type = DType<typename F::Compute>;
  const std::string name = F::name;
  const bool wanted = format ? *format == name : name == Type::name && has_dtype(weight_ih, Type::number);
  if (wanted) fill<F>(w, arrays, epsilon);
  return wanted;
}

template <class T>
py::object view(py::handle self, const T* data, std::vector<py::ssize_t> shape) {
  py::array_t<T> array(std::move(shape), data, self);
  array.attr("flags").attr("writeable") = false;
  return std::move(array);
}

// The value of an option, or the one that stands for none.
template <class Value>
Value value_or(const py::dict& values, const char* name, Value otherwise) {
  if (values.empty()) return otherwise;
  const py::object value = item_or_null(values, py::str(name).ptr());
  if (!value) return otherwise;
  try {
    return value.cast<Value>();
  } catch (const py::cast_error&) {
    throw py::type_error(wrong_type(name, "a number, or a sequence of integers", "another value"));
  }
}

py::object make_weights_function(FastArguments a) {
  const py::handle cell(a[0]), format(a[3]);
  if (!py::isinstance<PyCell>(cell)) throw py::type_error(wrong_type("cell", "a Cell", type_name(cell)));
  std::optional<std::string> wanted;
  if (!format.is_none()) {
    const char* const text = PyUnicode_AsUTF8(argument<py::str>(a[3], "str").ptr());
    if (!text) throw py::error_already_set();
    wanted = text;
  }
  return py::cast(make_weights(cell.cast<std::shared_ptr<PyCell>>(), dict_of(a[1]), dict_of(a[2]), wanted));
}

PyMethodDef kMakeWeights =
    fast_definition("make_weights", fast_function<make_weights_function, 4>,
                    "make_weights(cell: Cell, arrays: dict, values: dict, format: str | None) -> Weights");

// The units of h of a cell that projects, from the matrix that projects.
int64_t read_proj(const PyWeights& w, const py::dict& arrays) {
  const CellFacts& f = w.facts();
  if (f.projection < 0) return w.hidden;
  const auto& all = w.cell->parameters;
  const auto p = std::find_if(all.begin(), all.end(), [&](const Parameter& parameter) {
    return parameter.role == Role::matrix && parameter.matrix == f.product[f.projection].matrix;
  });
  const py::object matrix = item_or_none(arrays, p->name.object);
  require_array(p->name.c_str(), matrix);
  require_rank(p->name.c_str(), p->symbols.c_str(), 2, matrix);
  const int64_t proj = proxy(matrix)->dimensions[0];
  if (proj < 1 || proj >= w.hidden) {
    throw py::value_error(wrong_proj(p->name.text, p->symbols, w.hidden, dims_of(matrix)));
  }
  return proj;
}

ChosenActivation chosen_of(const char* place, const py::object& value) {
  const bool with_numbers = PyTuple_Check(value.ptr()) && py::len(value) == 3;
  const py::object name = with_numbers ? py::object(py::reinterpret_borrow<py::tuple>(value)[0]) : value;
  ChosenActivation chosen;
  for (int kind = 1; py::isinstance<py::str>(name) && kind < static_cast<int>(std::size(kActivationNames)); ++kind) {
    if (name.cast<std::string>() == kActivationNames[kind]) chosen.kind = static_cast<Activation>(kind);
  }
  if (chosen.kind == Activation::own || with_numbers != (chosen.kind == Activation::hard_sigmoid)) {
    throw py::value_error(std::string(place) + ": expected the name of an activation, or one with alpha and beta");
  }
  if (with_numbers) {
    const auto numbers = py::reinterpret_borrow<py::tuple>(value);
    const auto number = [&](std::size_t i) {
      const double value = PyFloat_AsDouble(py::object(numbers[i]).ptr());
      if (PyErr_Occurred()) throw py::error_already_set();
      return value;
    };
    chosen.alpha = number(1);
    chosen.beta = number(2);
  }
  return chosen;
}

}  // namespace

Activations activations_of(const CellFacts& f, const py::dict& values) {
  Activations all;
  ChosenActivation* const places[] = {&all.gate, &all.candidate, &all.output};
  for (std::size_t i = 0; !values.empty() && i < std::size(places); ++i) {
    const py::object value = item_or_null(values, py::str(kActivationPlaces[i]).ptr());
    if (value) *places[i] = chosen_of(kActivationPlaces[i], value);
  }
  if (all.any() && !f.activates) {
    throw py::value_error(std::string("activations: expected those of cell '") + f.name + "', got others");
  }
  return all;
}

Probabilities options_of(const py::dict& values) {
  Probabilities options;
  for (int m = 0; m < kMasks; ++m) {
    double& p = options.p[m];
    p = value_or(values, kMaskNames[m], 0.0);
    if (!(p >= 0 && p <= 1)) throw py::value_error(std::string(kMaskNames[m]) + ": expected a number in 0..1");
  }
  return options;
}

std::vector<int64_t> periods_of(const CellFacts& f, int64_t hidden, const py::dict& values) {
  const auto periods = value_or(values, "periods", std::vector<int64_t>());
  check_periods(f, hidden, periods);
  return periods;
}

std::unique_ptr<PyWeights> make_weights(std::shared_ptr<const PyCell> cell, const py::dict& arrays,
                                        const py::dict& values, const std::optional<std::string>& format) {
  const double epsilon = value_or(values, "epsilon", 0.0);
  auto w = std::make_unique<PyWeights>();
  w->cell = std::move(cell);
  w->periods = value_or(values, "periods", std::vector<int64_t>());
  w->heads = value_or(values, "num_heads", int64_t{1});
  w->options = options_of(values);
  w->activations = activations_of(w->facts(), values);
  const Parameter& first = w->cell->parameters.at(0);
  const py::object weight_ih = item_or_none(arrays, first.name.object);
  require_array(first.name.c_str(), weight_ih);
  if (!has_dtype(weight_ih, DType<float>::number) && !has_dtype(weight_ih, DType<double>::number)) {
    fail_dtype(first.name.c_str(), "float32 or float64", weight_ih);
  }
  require_rank(first.name.c_str(), first.symbols.c_str(), 2, weight_ih);
  const int64_t rows = proxy(weight_ih)->dimensions[0];
  w->input = proxy(weight_ih)->dimensions[1];
  w->hidden = rows / first.gates;
  if (rows % first.gates != 0 || rows == 0 || w->input == 0) {
    throw py::value_error(wrong_size(first.name.text, first.symbols, dims_of(weight_ih)));
  }
  check_heads(w->facts(), w->hidden, w->heads);
  if (!sizes_fit(w->facts(), w->hidden, w->input, w->heads)) {
    throw py::value_error(too_large(first.name.text, dims_of(weight_ih)));
  }
  w->proj = read_proj(*w, arrays);
#define RNN_FILL(Format, ...) || fill_as<Format>(*w, arrays, epsilon, weight_ih, format)
  const bool filled = false RNN_FORMATS(RNN_FILL);
#undef RNN_FILL
  if (!filled) throw py::value_error("format: expected that of weights on the CPU, got '" + format.value_or("") + "'");
  return w;
}

py::object parameter_view(py::handle self, const std::string& name) {
  if (!py::isinstance<PyWeights>(self)) throw py::type_error(wrong_type("self", "Weights", type_name(self)));
  const auto& w = self.cast<const PyWeights&>();
  const auto& parameters = w.cell->parameters;
  std::size_t i = 0;
  while (i < parameters.size() && parameters[i].name.text != name) ++i;
  if (i == parameters.size()) throw py::value_error("name: expected that of a parameter, got '" + name + "'");
  if (!w.given[i]) return py::none();
  const Parameter& p = parameters[i];
  const int64_t H = w.hidden, rows = w.rows_of(p), columns = w.columns_of(p);
  return w.with([&](const auto& weights) -> py::object {
    const auto& a = weights.arrays();
    switch (p.role) {
      case Role::weight_ih:
        return view(self, a.weight_ih, {rows, w.input});
      case Role::bias_ih:
        return view(self, a.bias_ih, {rows});
      case Role::bias_hh:
        return view(self, a.bias_hh, {rows});
      case Role::vector:
        return view(self, a.vectors + p.first * H, {rows});
      default:
        return view(self, a.matrix[p.matrix] + p.first * (rows / p.gates) * columns, {rows, columns});
    }
  });
}

namespace {

template <class F>
constexpr const char* dtype_of(const Weights<F>&) {
  return DType<typename F::Compute>::name;
}
template <class F>
constexpr const char* format_of(const Weights<F>&) {
  return F::name;
}

}  // namespace

const char* dtype_name(const PyWeights& w) {
  return w.with([](const auto& weights) { return dtype_of(weights); });
}
const char* format_name(const PyWeights& w) {
  return w.with([](const auto& weights) { return format_of(weights); });
}

void register_weights(py::module_& m) {
  py::class_<PyCell, std::shared_ptr<PyCell>>(m, "Cell", py::custom_type_setup(refuse_new<1>), py::is_final(),
                                              "A native cell with the names of its parameters.")
      .def_property_readonly("name", [](const PyCell& c) { return c.facts().name; });
  m.def(
      "make_cell",
      [](const std::string& name, const std::vector<ParameterTuple>& parameters, int gates,
         const std::vector<StateTuple>& states, bool below, bool numbered) {
        return std::make_shared<PyCell>(make_cell(name, parameters, gates, states, below, numbered));
      },
      py::arg("cell"), py::arg("parameters"), py::arg("gates"), py::arg("states"), py::arg("below"),
      py::arg("numbered"));
  m.def("describe_cell", &describe_cell, py::arg("cell"));
  m.def("cell_names", [] {
    py::list names;
    for (int i = 0; i < kCells; ++i) names.append(facts_of(static_cast<CellId>(i)).name);
    return names;
  });
  py::class_<PyWeights>(m, "Weights", py::custom_type_setup(refuse_new<2>), py::is_final(),
                        "Weights of any cell; the package has a class for each family.")
      .def_property_readonly("input_size", [](const PyWeights& w) { return w.input; })
      .def_property_readonly("hidden_size", [](const PyWeights& w) { return w.hidden; })
      .def_property_readonly("proj_size", [](const PyWeights& w) { return w.proj; })
      .def_property_readonly("format", [](const PyWeights& w) { return format_name(w); })
      .def_property_readonly("dtype", [](const PyWeights& w) { return py::dtype(dtype_name(w)); })
      .def("array", &parameter_view, py::arg("name"));
  add_function(m, kMakeWeights);
}

}  // namespace fusedrnn
