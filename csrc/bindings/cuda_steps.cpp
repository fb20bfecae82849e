// The native side of the stepwise driver, on plain addresses. As in cuda.cpp, the Python layer has checked arrays and
// allocated, and the driver is called without the GIL.

#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "../cuda/steps.hpp"
#include "../empty.hpp"
#include "cell.hpp"
#include "gil.hpp"
#include "register.hpp"
#include "weights.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

cuda::Stored stored_by_name(const std::string& name) {
#define RNN_STORED_NAME(stored, compute) \
  if (name == #stored) return cuda::Stored::stored;
  RNN_CUDA_STORED(RNN_STORED_NAME)
#undef RNN_STORED_NAME
  throw py::value_error("dtype: expected one of a GPU's arrays, got '" + name + "'");
}

// Where an address, or the i-th of several, is among the arguments.
struct Field {
  const char* name;
  std::size_t offset, count;
};
template <class T>
constexpr std::size_t kAddresses = std::is_array_v<T> ? std::extent_v<T> : 1;
#define RNN_FIELD(name) {#name, offsetof(cuda::StepArguments, name), kAddresses<decltype(cuda::StepArguments::name)>}
constexpr Field kFields[] = {RNN_FIELD(periods),     RNN_FIELD(start),
                             RNN_FIELD(counted),     RNN_FIELD(lengths),
                             RNN_FIELD(resets),      RNN_FIELD(weight_ih),
                             RNN_FIELD(weight_ih_t), RNN_FIELD(matrix),
                             RNN_FIELD(matrix_t),    RNN_FIELD(bias_ih),
                             RNN_FIELD(bias_hh),     RNN_FIELD(vectors),
                             RNN_FIELD(x),           RNN_FIELD(state0),
                             RNN_FIELD(reset_state), RNN_FIELD(below),
                             RNN_FIELD(c),           RNN_FIELD(y),
                             RNN_FIELD(state_n),     RNN_FIELD(slots),
                             RNN_FIELD(zoned_c),     RNN_FIELD(run),
                             RNN_FIELD(pre),         RNN_FIELD(sums),
                             RNN_FIELD(row_sums),    RNN_FIELD(mask),
                             RNN_FIELD(dy),          RNN_FIELD(dc),
                             RNN_FIELD(dstate_n),    RNN_FIELD(dx),
                             RNN_FIELD(dbelow),      RNN_FIELD(dstate0),
                             RNN_FIELD(dreset),      RNN_FIELD(dreset_of_all),
                             RNN_FIELD(gradients),   RNN_FIELD(stage_sums),
                             RNN_FIELD(kept),        RNN_FIELD(reset_sum),
                             RNN_FIELD(operand),     RNN_FIELD(dweight_ih),
                             RNN_FIELD(dmatrix),     RNN_FIELD(dbias_ih),
                             RNN_FIELD(dbias_hh),    RNN_FIELD(dvectors),
                             RNN_FIELD(pairs),       RNN_FIELD(stretch_ends),
                             RNN_FIELD(counts)};
#undef RNN_FIELD

// A cell on one device: what all calls on its weights have in common.
struct CudaSteps {
  cuda::Driver& driver;
  const cuda::Device& device;
  cuda::StepArguments a{};
  std::vector<Clock> clocks;

  CudaSteps(const cuda::Paths& paths, int ordinal) : driver(cuda::driver(paths)), device(driver.device(ordinal)) {}
};

// One call: the arguments of its launches, and addresses by name.
struct CudaStepsCall {
  const std::shared_ptr<const CudaSteps> owner;
  cuda::StepArguments a;

  void set(const std::string& name, std::size_t index, std::uintptr_t address) {
    static_assert(sizeof(void*) == sizeof address, "addresses of the device are as wide as the host's");
    for (const Field& field : kFields) {
      if (name != field.name || index >= field.count) continue;
      std::memcpy(reinterpret_cast<char*>(&a) + field.offset + index * sizeof address, &address, sizeof address);
      return;
    }
    throw py::value_error("expected the name of an address, got '" + name + "'");
  }
  void forward(int64_t first, int64_t last, std::uintptr_t stream) const {
    with_device([&] {
      cuda::run_forward_steps(owner->driver, owner->device, a, owner->clocks, first, last,
                              reinterpret_cast<void*>(stream));
    });
  }
  void backward(std::uintptr_t stream) const {
    with_device([&] {
      cuda::run_backward_steps(owner->driver, owner->device, a, owner->clocks, reinterpret_cast<void*>(stream));
    });
  }

 private:
  template <class Run>
  void with_device(Run&& run) const {
    without_gil([&] {
      const cuda::Current current(owner->driver, owner->device);
      run();
    });
  }
};

std::shared_ptr<CudaSteps> make_steps(const cuda::Paths& paths, int device, const std::string& cell,
                                      const std::string& dtype, int64_t input, int64_t hidden, int64_t proj,
                                      int64_t heads, double epsilon, const py::dict& values) {
  std::shared_ptr<CudaSteps> made;
  without_gil([&] { made = std::make_shared<CudaSteps>(paths, device); });
  cuda::StepArguments& a = made->a;
  a.cell = cell_by_name(cell);
  a.facts = facts_of(a.cell);
  a.stored = stored_by_name(dtype);
  a.activations = activations_of(a.facts, values);
  a.epsilon = epsilon;
  a.input = input;
  a.hidden = hidden;
  a.proj = proj;
  a.heads = heads;
  const Probabilities options = options_of(values);
  a.zoneout_h = options.p[kZoneoutH];
  a.zoneout_c = options.p[kZoneoutC];
  for (int m = 0; m < kMasks; ++m) a.scale[m] = options.scale(static_cast<Mask>(m));
  made->clocks = clocks_of(periods_of(a.facts, hidden, values), hidden);
  for (int s = 0; s < a.facts.states; ++s) a.empty[s] = value_of(a.facts.state[s].empty);
  return made;
}

}  // namespace

void register_cuda_steps(py::module_& m) {
  const py::class_<CudaSteps, std::shared_ptr<CudaSteps>> steps_class(
      m, "CudaSteps", py::custom_type_setup(refuse_new<10>), py::is_final());
  m.def("make_cuda_steps",
        [](const std::string& library, const std::string& nvml, const std::string& image, int device,
           const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size,
           int64_t proj_size, int64_t num_heads, double epsilon, const py::dict& values) {
          return make_steps({library, nvml, image}, device, cell, dtype, input_size, hidden_size, proj_size, num_heads,
                            epsilon, values);
        });
  m.attr("CUDA_ROW_SUMS") = kMaxSums;        // of a row, in scratch
  m.attr("CUDA_CHUNK_PAIRS") = kChunkPairs;  // at least, of a stretch that is not its chunk's last
  py::class_<CudaStepsCall>(m, "CudaStepsCall", py::custom_type_setup(refuse_new<11>), py::is_final())
      .def("set", [](CudaStepsCall& call, const std::string& name, std::size_t index,
                     std::uintptr_t address) { call.set(name, index, address); })
      .def("forward", [](const CudaStepsCall& call, int64_t first, int64_t last,
                         std::uintptr_t stream) { call.forward(first, last, stream); })
      .def("backward", [](const CudaStepsCall& call, std::uintptr_t stream) { call.backward(stream); });
  m.def("make_cuda_steps_call",
        [](const std::shared_ptr<CudaSteps>& steps, int64_t seq_len, int64_t batch, bool reverse, bool train) {
          if (!steps) throw py::type_error("steps: expected CudaSteps, got None");
          auto call = std::make_unique<CudaStepsCall>(CudaStepsCall{steps, steps->a});
          call->a.seq_len = seq_len;
          call->a.batch = batch;
          call->a.reverse = reverse ? 1 : 0;
          call->a.train = train ? 1 : 0;
          return call;
        });
}

}  // namespace fusedrnn
