// The native side of the CUDA backend: the driver, plans and launches, on plain addresses. The Python layer has checked
// arrays and allocated; addresses are on the device that it names. The driver is called without the GIL: it may wait,
// for a full queue of launches above all.

#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../cuda/launch.hpp"
#include "cell.hpp"
#include "gil.hpp"
#include "register.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

cuda::Format format_by_name(const std::string& name) {
  for (int i = 0; i < cuda::kFormats; ++i) {
    if (name == cuda::kFormatNames[i]) return static_cast<cuda::Format>(i);
  }
  std::string valid;
  for (const char* const known : cuda::kFormatNames) valid += (valid.empty() ? "" : ", ") + std::string(known);
  throw py::value_error("format: expected one of " + valid + ", got '" + name + "'");
}

// The kernels for one cell and format on one device.
struct CudaCell {
  cuda::Driver& driver;
  const cuda::Device& device;
  CellId cell;
  cuda::Format format;
  int64_t hidden;

  CudaCell(const cuda::Paths& paths, int ordinal, const std::string& name, const std::string& format_name,
           int64_t hidden_size)
      : driver(cuda::driver(paths)),
        device(driver.device(ordinal)),
        cell(cell_by_name(name)),
        format(format_by_name(format_name)),
        hidden(hidden_size) {
    cuda::require_runs(facts_of(cell));
  }

  cuda::PackArguments pack_of(bool backward, int product) const {
    return cuda::make_pack(facts_of(cell), format, hidden, backward, product);
  }
  std::vector<std::size_t> packed_sizes(bool backward) const {
    std::vector<std::size_t> sizes;
    sizes.reserve(fusedrnn::kMaxProducts);
    for (int p = 0; p < facts_of(cell).products; ++p) sizes.push_back(cuda::packed_bytes(pack_of(backward, p)));
    return sizes;
  }
  void pack(bool backward, std::uintptr_t weight_hh, const std::vector<std::uintptr_t>& to,
            std::uintptr_t stream) const {
    without_gil([&] {
      const cuda::Current current(driver, device);
      for (int p = 0; p < facts_of(cell).products; ++p) {
        cuda::PackArguments a = pack_of(backward, p);
        a.from = reinterpret_cast<const void*>(weight_hh);
        a.to = reinterpret_cast<void*>(to.at(static_cast<std::size_t>(p)));
        cuda::run_pack(driver, device, format, a, reinterpret_cast<void*>(stream));
      }
    });
  }

  cuda::Plan plan_of(bool backward, int64_t batch, const cuda::Forced& forced) const {
    const cuda::Kind kind = backward ? cuda::Kind::backward : cuda::Kind::forward;
    return cuda::make_plan(facts_of(cell), format, batch, hidden, backward, cuda::limits_of(device, kind, format),
                           forced);
  }
};

#define RNN_ADDRESS(field, index) offsetof(cuda::Arguments, field) + (index) * sizeof(void*)
constexpr std::pair<const char*, std::size_t> kAddresses[] = {
    {"lengths", RNN_ADDRESS(lengths, 0)},
    {"packed0", RNN_ADDRESS(packed, 0)},
    {"packed1", RNN_ADDRESS(packed, 1)},
    {"exchange0", RNN_ADDRESS(exchange, 0)},
    {"exchange1", RNN_ADDRESS(exchange, 1)},
    {"run0", RNN_ADDRESS(run, 0)},
    {"run1", RNN_ADDRESS(run, 1)},
    {"h0", RNN_ADDRESS(state0, 0)},
    {"c0", RNN_ADDRESS(state0, 1)},
    {"h_n", RNN_ADDRESS(state_n, 0)},
    {"c_n", RNN_ADDRESS(state_n, 1)},
    {"vectors", RNN_ADDRESS(vectors, 0)},
    {"slots", RNN_ADDRESS(slots, 0)},
    {"gradients", RNN_ADDRESS(gradients, 0)},
    {"pre", RNN_ADDRESS(pre, 0)},
    {"bias_ih", RNN_ADDRESS(bias_ih, 0)},
    {"bias_hh", RNN_ADDRESS(bias_hh, 0)},
    {"y", RNN_ADDRESS(y, 0)},
    {"h", RNN_ADDRESS(h, 0)},
    {"dy", RNN_ADDRESS(dy, 0)},
    {"dh_n", RNN_ADDRESS(dstate_n, 0)},
    {"dc_n", RNN_ADDRESS(dstate_n, 1)},
    {"dh0", RNN_ADDRESS(dstate0, 0)},
    {"dc0", RNN_ADDRESS(dstate0, 1)},
};
#undef RNN_ADDRESS

// A launch in the making: its plan, and addresses by name.
struct CudaRun {
  const std::shared_ptr<const CudaCell> owner;
  const CudaCell& kernels;
  bool backward;
  cuda::Arguments a{};

  CudaRun(std::shared_ptr<const CudaCell> cuda_cell, bool is_backward, int64_t seq_len, int64_t batch,
          const cuda::Forced& forced)
      : owner(std::move(cuda_cell)), kernels(*owner), backward(is_backward) {
    const CudaCell& cell = kernels;
    const CellFacts& f = facts_of(cell.cell);
    a.cell = cell.cell;
    a.gates = f.gates;
    a.slot_count = f.slots;
    a.column_count = f.columns;
    a.state_slot = f.states > 1 ? f.state[1].slot : -1;
    for (int g = 0; g < f.gates; ++g) a.split |= f.split[g] ? 1u << g : 0u;
    for (int p = 0; p < f.products; ++p) {
      a.first_gate[p] = f.product[p].first_gate;
      a.product_gates[p] = f.product[p].gates;
      a.product_column[p] = f.product[p].column;
    }
    a.exchange_gates = is_backward ? f.product[0].gates : 1;
    if (batch > 0) require_small(seq_len, batch);
    a.plan = cell.plan_of(backward, batch, forced);
    for (int p = 0; p < f.products; ++p) {
      a.copy_bytes[p] = static_cast<int>(cuda::exchange_bytes(a.plan, p) / cuda::kRing);
    }
    a.seq_len = a.last = static_cast<int>(seq_len);
    a.batch = static_cast<int>(batch);
    a.hidden = static_cast<int>(cell.hidden);
    a.padded_hidden = cuda::padded(a.hidden);
    a.h_step = a.batch * a.hidden;
    a.gates_step = a.h_step * f.gates;
    a.slots_step = a.h_step * f.slots;
    a.columns_step = a.h_step * f.columns;
  }
  // Kernels count steps, and the bytes of a step in each array, in 32 bits. Operands have no more vectors than gates;
  // their rows are filled up to eights, and to the same number for each set of thread blocks: to fewer than twice as
  // many.
  void require_small(int64_t seq_len, int64_t batch) const {
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    const CellFacts& f = facts_of(kernels.cell);
    const int64_t vectors = std::max({int64_t{1}, int64_t{f.gates}, int64_t{f.slots}, int64_t{f.columns}});
    const int64_t row_bytes = 4 * vectors * cuda::padded(static_cast<int>(kernels.hidden)) + cuda::kChunkBytes;
    const int64_t most_rows = kMost / row_bytes / 2;
    if (seq_len >= kMost || batch > most_rows) {
      throw py::value_error("CUDA: expected seq_len below " + std::to_string(kMost) + " and batch_size up to " +
                            std::to_string(most_rows) + " for hidden_size " + std::to_string(kernels.hidden) +
                            ", got " + std::to_string(seq_len) + " and " + std::to_string(batch));
    }
  }
  std::vector<std::size_t> exchange_sizes() const {
    std::vector<std::size_t> sizes;
    sizes.reserve(fusedrnn::kMaxProducts);
    for (int p = 0; p < a.plan.products; ++p) sizes.push_back(cuda::exchange_bytes(a.plan, p));
    return sizes;
  }
  void set(const std::string& name, std::uintptr_t address) {
    static_assert(sizeof(void*) == sizeof address, "addresses of the device are as wide as the host's");
    for (const auto& [known, offset] : kAddresses) {
      if (name != known) continue;
      std::memcpy(reinterpret_cast<char*>(&a) + offset, &address, sizeof address);
      return;
    }
    throw py::value_error("expected the name of an address, got '" + name + "'");
  }
  // Steps [first, last) in the order in which they run; pre_first is the time of the first row of `pre`.
  void launch(int64_t first, int64_t last, int64_t pre_first, bool reverse, bool keeps_slots, std::uintptr_t stream) {
    a.first = static_cast<int>(first);
    a.last = static_cast<int>(last);
    a.pre_first = static_cast<int>(pre_first);
    a.reverse = reverse ? 1 : 0;
    a.keeps_slots = keeps_slots ? 1 : 0;
    run(backward ? cuda::Kind::backward : cuda::Kind::forward, a, stream);
  }
  // Lets the thread blocks of this launch give each other operands this number of times, and do nothing else: for the
  // benchmark.
  void launch_exchange(int64_t times, std::uintptr_t stream) const {
    cuda::Arguments exchange = a;
    exchange.seq_len = static_cast<int>(times);
    run(cuda::Kind::exchange, exchange, stream);
  }
  void run(cuda::Kind kind, const cuda::Arguments& arguments, std::uintptr_t stream) const {
    without_gil([&] {
      const cuda::Current current(kernels.driver, kernels.device);
      cuda::run(kernels.driver, kernels.device, kind, kernels.format, arguments, reinterpret_cast<void*>(stream));
    });
  }
  py::dict plan() const {
    using namespace py::literals;
    const cuda::Plan& p = a.plan;
    std::vector<int> resident, chunks;
    for (int i = 0; i < p.products; ++i) {
      resident.push_back(p.product[i].resident);
      chunks.push_back(p.product[i].chunks);
    }
    return py::dict("unit_blocks"_a = p.unit_blocks, "batch_groups"_a = p.batch_groups, "groups"_a = p.groups,
                    "octets_per_group"_a = p.octets_per_group, "groups_per_block"_a = p.groups_per_block,
                    "rows_per_group"_a = p.rows_per_group, "warps"_a = p.warps, "splits"_a = 1 << p.split_bits,
                    "halves"_a = p.halves, "tiles"_a = p.tiles, "state_shared"_a = p.state_shared != 0,
                    "chunks"_a = chunks, "resident"_a = resident, "shared_bytes"_a = p.shared_bytes);
  }
};

// A member function for Python, which as it is would take None for an object.
template <class Object, class Result, class... Args>
auto on_object(Result (Object::*member)(Args...)) {
  return [member](Object& self, Args... args) { return (self.*member)(std::forward<Args>(args)...); };
}
template <class Object, class Result, class... Args>
auto on_object(Result (Object::*member)(Args...) const) {
  return [member](const Object& self, Args... args) { return (self.*member)(std::forward<Args>(args)...); };
}

}  // namespace

void register_cuda(py::module_& m) {
  m.def("cuda_status", [](const std::string& library, const std::string& nvml, const std::string& image) {
    bool ready = false;
    std::string status;
    without_gil([&] {
      const cuda::Driver& driver = cuda::driver({library, nvml, image});
      ready = driver.problem().empty();
      status = driver.status();
    });
    return py::make_tuple(ready, py::bytes(status));  // paths may be no UTF-8
  });
  py::class_<CudaCell, std::shared_ptr<CudaCell>>(m, "CudaCell", py::custom_type_setup(refuse_new<4>), py::is_final())
      .def("packed_sizes", on_object(&CudaCell::packed_sizes))
      .def("pack", on_object(&CudaCell::pack));
  m.def("make_cuda_cell", [](const std::string& library, const std::string& nvml, const std::string& image, int device,
                             const std::string& cell, const std::string& format, int64_t hidden_size) {
    std::shared_ptr<CudaCell> made;
    const cuda::Paths paths{library, nvml, image};
    without_gil([&] { made = std::make_shared<CudaCell>(paths, device, cell, format, hidden_size); });
    return made;
  });
  py::class_<CudaRun>(m, "CudaRun", py::custom_type_setup(refuse_new<5>), py::is_final())
      .def("set", on_object(&CudaRun::set))
      .def("exchange_sizes", on_object(&CudaRun::exchange_sizes))
      .def_property_readonly("plan", on_object(&CudaRun::plan))
      .def("launch", on_object(&CudaRun::launch))
      .def("launch_exchange", on_object(&CudaRun::launch_exchange));
  m.def("make_cuda_run", [](const std::shared_ptr<CudaCell>& cell, bool backward, int64_t seq_len, int64_t batch,
                            int octets_per_group, int groups_per_block) {
    if (!cell) throw py::type_error("cell: expected a CudaCell, got None");
    return std::make_unique<CudaRun>(cell, backward, seq_len, batch, cuda::Forced{octets_per_group, groups_per_block});
  });
}

}  // namespace fusedrnn
