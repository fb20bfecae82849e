#include "steps.hpp"

#include <algorithm>

#include "../cells/gradients.hpp"

namespace fusedrnn {
namespace cuda {
namespace {

#define RNN_STORED_BYTES(name, compute) sizeof(compute),
constexpr std::size_t kComputeBytes[] = {RNN_CUDA_STORED(RNN_STORED_BYTES)};
#undef RNN_STORED_BYTES

constexpr int kMostThreads = 256, kReduceThreads = 128, kBlocksEach = 8;  // blocks: of a multiprocessor
constexpr int kUnaskedSharedBytes = 48 * 1024;                            // that any kernel may have

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The launches of one call.
class Launches {
 public:
  Launches(const Driver& driver, const Device& device, const StepArguments& a, const std::vector<Clock>& clocks,
           void* stream)
      : driver_(driver),
        device_(device),
        clocks_(clocks),
        stream_(stream),
        bytes_(kComputeBytes[static_cast<int>(a.stored)]),
        launch_(),
        f_(launch_.a.facts) {
    launch_.a = a;
    launch_.clock = {0, a.hidden, 0};
    launch_.is_first_clock = launch_.is_last_clock = 1;
  }

  void forward(int64_t first, int64_t last) {
    if (first == 0) begin(StateWork::begin);
    launch_.first = first;
    launch_.last = last;
    StepArguments& a = launch_.a;
    a.pre_first = a.reverse ? a.seq_len - last : first;
    if (last > first) sum(Sum::input, (last - first) * a.batch, a.facts.gates * a.hidden);
    for (int64_t step = first; step < last; ++step) {
      launch_.step = step;
      for (int phase = 0; phase < f_.phases; ++phase) run_phase(phase);
    }
    if (last == a.seq_len) states(StateWork::end);
  }

  void backward() {
    begin(StateWork::begin_backward);
    const StepArguments& a = launch_.a;
    for (int64_t step = a.seq_len - 1; step >= 0; --step) {
      launch_.step = step;
      run_stages();
    }
    launch_.from_beginning = 1;
    launch_.phase = 0;
    if (a.seq_len > 0 && clocks_.empty()) first_products();
    states(StateWork::end_backward);
    bool shares_reset = false;
    for (int s = 0; s < f_.states; ++s) shares_reset = shares_reset || a.dreset_of_all[s];
    if (shares_reset) states(StateWork::add_resets, 1);
    for_each_clock([&] {
      if (a.dx) sum(Sum::input_gradient, a.seq_len * a.batch, a.input);
    });
    for_each_clock([&] { weights(); });
  }

 private:
  bool masks(Mask mask) const { return launch_.a.mask[mask] != nullptr; }
  // run() for all units, or for those of each clock.
  template <class Run>
  void for_each_clock(Run&& run) {
    if (clocks_.empty()) return run();
    for (const Clock& clock : clocks_) {
      launch_.clock = clock;
      launch_.is_first_clock = &clock == &clocks_.front() ? 1 : 0;
      launch_.is_last_clock = &clock == &clocks_.back() ? 1 : 0;
      run();
    }
  }
  void begin(StateWork work) {
    if (!clocks_.empty()) states(StateWork::count);
    states(work);
  }

  void run_phase(int phase) {
    const StepArguments& a = launch_.a;
    launch_.phase = phase;
    if (f_.forward_sums[phase] > 0) reduce(false);
    for (int i = 0; i < f_.products; ++i) {
      const Product& product = f_.product[i];
      if (product.phase != phase || product.depth == 0) continue;
      launch_.product = i;
      const int64_t units = product_units(f_, i, a.hidden, a.proj);
      for_each_clock([&] { sum(Sum::product, a.batch, product.gates * units / a.heads, a.heads); });
    }
    for_each(StepKernel::forward, a.batch * a.hidden);
  }

  // Those of stage 0, which give gradients of states: of h, and extras.
  void first_products() {
    int extra = 1;
    for (int i = 0; i < f_.products; ++i) {
      if (state_of(f_.product[i].from) <= 0) continue;
      for (int part = 0; part < f_.product[i].depth; ++part) stage_product(i, part, extra++);
    }
    const int main = last_of_phase(f_, 0);
    if (f_.product[main].depth > 0) stage_product(main, 0, 0);
  }
  void stage_product(int product, int part, int extra) {
    const StepArguments& a = launch_.a;
    launch_.product = product;
    launch_.part = part;
    launch_.extra = extra;
    sum(Sum::stage, a.batch, operand_size(f_.product[product].from, 1, a.hidden, a.proj) / a.heads, a.heads);
  }
  void run_stages() {
    const StepArguments& a = launch_.a;
    const bool zones = masks(kZoneoutH) || masks(kZoneoutC);
    bool has_extras = false;
    for (int i = 0; i < f_.products; ++i) has_extras = has_extras || state_of(f_.product[i].from) > 0;
    launch_.phase = 0;
    if (!clocks_.empty()) return run_clocks();
    first_products();
    if (a.resets || zones || has_extras) states(StateWork::before_stages);
    for_each(StepKernel::backward, a.batch * a.hidden);
    for (int stage = 1; stage < f_.phases; ++stage) {
      launch_.phase = stage;
      if (f_.backward_sums[stage] > 0) reduce(true);
      const int main = last_of_phase(f_, f_.phases - stage);
      if (f_.product[main].depth > 0) stage_product(main, 0, 0);
      for_each(StepKernel::backward, a.batch * a.hidden);
    }
    if (zones) states(StateWork::after_stages);
  }

  // The step of a cell with clocks: its gradients, then what they give to the units that they see, clock after clock.
  void run_clocks() {
    for_each(StepKernel::backward, launch_.a.batch * launch_.a.hidden);
    for_each_clock([&] { stage_product(0, 0, 0); });
  }

  // Gradients of weights, biases and vectors.
  void weights() {
    const StepArguments& a = launch_.a;
    const GradientPlan& plan = gradients_of(a.cell);
    run(StepKernel::pairs, 1, kMostThreads, 0);
    for (int i = -1; i < plan.operands; ++i) {  // -1: one
      if (i >= 0) find_operand(plan.operand[i]);
      for (int k = 0; k < plan.terms; ++k) {
        if (plan.term[k].operand == i) add_term(plan.term[k]);
      }
    }
  }
  // Points to an operand: where it lies, or gathered.
  void find_operand(const Operand& operand) {
    StepArguments& a = launch_.a;
    launch_.from = operand.from;
    launch_.width = operand.from == From::x ? a.input : operand_size(operand.from, operand.depth, a.hidden, a.proj);
    launch_.source = a.operand;
    launch_.source_stride = launch_.width;
    launch_.source_offset = 0;
    if (operand.from == From::slots) {
      launch_.source = a.slots;
      launch_.source_stride = f_.slots * a.hidden;
      launch_.source_offset = operand.slot * a.hidden;
      return;
    }
    const bool drops =
        operand.from == From::x ? masks(kInputDropout) : operand.from == From::h_prev && masks(kRecurrentDropout);
    launch_.drops = drops && operand.of_matrix ? 1 : 0;
    for_each(StepKernel::gather, a.seq_len * a.batch * launch_.width);
  }
  void add_term(const GradientTerm& term) {
    using Of = GradientTerm::Of;
    StepArguments& a = launch_.a;
    launch_.column = term.column;
    launch_.block = term.block;
    if (term.of == Of::weight_ih || term.of == Of::matrix) {
      const bool is_input = term.of == Of::weight_ih;
      a.to = is_input ? a.dweight_ih : a.dmatrix[term.index];
      launch_.matrix_heads = is_input ? 1 : a.heads;
      if (a.to)
        sum(Sum::matrix_gradient, a.hidden / launch_.matrix_heads, launch_.width / launch_.matrix_heads,
            launch_.matrix_heads);
      return;
    }
    if (term.of == Of::vector) launch_.block = term.index;
    a.to = term.of == Of::bias_ih ? a.dbias_ih : term.of == Of::bias_hh ? a.dbias_hh : a.dvectors;
    if (term.operand < 0) launch_.source = nullptr;
    if (a.to) sum_vector_gradient();
  }

  // Launches.
  std::size_t tile_bytes(int threads) const {
    return static_cast<std::size_t>(threads / 32 + 2) * kTileElements * bytes_;
  }
  void sum(Sum what, int64_t rows, int64_t columns, int64_t heads = 1) {
    launch_.sum = what;
    int threads = kMostThreads;
    while (threads > 32 && (threads > most_threads(StepKernel::sum) || tile_bytes(threads) > shared_bytes()))
      threads /= 2;
    run(StepKernel::sum, heads * divide_up(rows, kSumRows) * divide_up(columns, kSumColumns), threads,
        tile_bytes(threads));
  }
  void sum_vector_gradient() {
    launch_.sum = Sum::vector_gradient;
    run(StepKernel::sum, divide_up(launch_.clock.last - launch_.clock.first, 32), kMostThreads, kMostThreads * bytes_);
  }
  void reduce(bool backward) {
    launch_.backward = backward ? 1 : 0;
    const int threads = std::min(kReduceThreads, most_threads(StepKernel::reduce)), rows = threads / kChainsOfRow;
    run(StepKernel::reduce, divide_up(launch_.a.batch, rows), threads,
        static_cast<std::size_t>(threads) * kMaxSums * bytes_);
  }
  void states(StateWork work) { states(work, launch_.a.batch); }
  void states(StateWork work, int64_t rows) {
    launch_.work = work;
    for_each(StepKernel::states, rows * launch_.a.hidden);
  }
  void for_each(StepKernel kernel, int64_t count) { run(kernel, divide_up(count, kMostThreads), kMostThreads, 0); }

  bool is_wide() const { return bytes_ == sizeof(double); }
  std::size_t shared_bytes() const {
    return static_cast<std::size_t>(std::min(device_.shared_bytes, kUnaskedSharedBytes));
  }
  int most_threads(StepKernel kernel) const { return device_.step_threads[static_cast<int>(kernel)][is_wide()]; }
  // Kernels go on with what more blocks, or threads, would have done.
  void run(StepKernel kernel, int64_t blocks, int threads, std::size_t shared) {
    if (blocks == 0) return;
    const auto most = static_cast<int64_t>(device_.multiprocessors) * kBlocksEach;
    const auto count = static_cast<unsigned>(std::min(blocks, most));
    void* parameters[] = {&launch_};
    driver_.check(driver_.calls().cuLaunchKernel(device_.step[static_cast<int>(kernel)][is_wide()], count, 1, 1,
                                                 static_cast<unsigned>(std::min(threads, most_threads(kernel))), 1, 1,
                                                 static_cast<unsigned>(shared), stream_, parameters, nullptr),
                  "cuLaunchKernel");
  }

  const Driver& driver_;
  const Device& device_;
  const std::vector<Clock>& clocks_;
  void* const stream_;
  const std::size_t bytes_;  // of the compute type
  StepLaunch launch_;
  const CellFacts& f_;
};

}  // namespace

void run_forward_steps(const Driver& driver, const Device& device, const StepArguments& a,
                       const std::vector<Clock>& clocks, int64_t first, int64_t last, void* stream) {
  Launches(driver, device, a, clocks, stream).forward(first, last);
}

void run_backward_steps(const Driver& driver, const Device& device, const StepArguments& a,
                        const std::vector<Clock>& clocks, void* stream) {
  Launches(driver, device, a, clocks, stream).backward();
}

}  // namespace cuda
}  // namespace fusedrnn
