// The native code without Python, for the sanitizers: every cell, dtype and ISA, forward and backward, with lengths and
// in reverse, on several threads and from several callers at once; and stacks of layers. Fails where results differ
// between any of them, where an output is left unwritten, or where a step of a stream would allocate. Prints a hash of
// all results, which is the same on every machine.
//
// `stress brief` is for emulated processors, which are slow, and whose memory is that of the machine beneath: each ISA
// on one thread, and less of all else. `stress brief 4` is the same on four threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "../../csrc/cpu/openmp.hpp"
#include "../../csrc/cpu/threads.hpp"
#include "../../csrc/platform/compiler.hpp"
#include "../../csrc/platform/platform.hpp"
#include "../../csrc/run.hpp"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* const memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t align) {
  ++allocations;
  const auto unit = static_cast<std::size_t>(align);
  if (void* const memory = fusedrnn::allocate_aligned(unit, (bytes + unit - 1) / unit * unit)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory, std::align_val_t) noexcept { fusedrnn::free_aligned(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { fusedrnn::free_aligned(memory); }
// Not inlined: gcc would see free where it does not see the malloc of new, and warn.
RNN_NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
RNN_NOINLINE void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace fusedrnn;
using std::int64_t;

struct Sizes {
  int64_t T, B, I, H;
  int64_t heads = 1;
};

template <class T>
using Array = std::vector<T>;

template <class T>
Array<T> random(std::mt19937& rng, int64_t n) {
  // Not by std::uniform_real_distribution, which each library has in its own way. rng() has 32 bits.
  Array<T> a(static_cast<std::size_t>(n));
  for (T& v : a) v = T(0.8) * (T(rng() >> 8) / T(1 << 24)) - T(0.4);
  return a;
}

// Memory that an output must be written to.
template <class T>
Array<T> unwritten(int64_t n) {
  return Array<T>(static_cast<std::size_t>(n), std::numeric_limits<T>::quiet_NaN());
}

template <class T>
void same(const Array<T>& a, const Array<T>& b, const char* what, CellId cell) {
  if (a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0)) return;
  std::printf("cell %d: %s changes the bits\n", static_cast<int>(cell), what);
  std::exit(1);
}

bool brief = false;

// Of what all calls gave that others were compared with (FNV-1a).
std::uint64_t bits = 14695981039346656037u;

template <class T>
void take_bits(const Array<T>& results) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(results.data());
  for (std::size_t i = 0; i < results.size() * sizeof(T); ++i) bits = (bits ^ bytes[i]) * 1099511628211u;
}

// How a call is made: on weights where they lie; on packed sequences; on lengths that fall; with episodes.
struct Way {
  bool lent = false, packed = false, falling = false, resets = false;
};

// The options that a cell has.
Probabilities all_options(const CellFacts& f) {
  Probabilities options;
  options.p[kZoneoutH] = options.p[kInputDropout] = 0.3;
  if (f.gates > 1) options.p[kCandidateDropout] = 0.3;
  if (f.matrices > 0 && f.recurrent_gates > 0) options.p[kRecurrentDropout] = options.p[kWeightDropout] = 0.3;
  const bool alone = f.state[f.states - 1].empty == Empty::zero;  // c means nothing without n and m
  if (f.states > 1 && alone) options.p[kZoneoutC] = 0.3;
  return options;
}

// The live rows of a padded batch whose lengths fall.
struct LiveRows {
  const Sizes n;
  const std::vector<int64_t>& lengths;
  std::vector<int64_t> offsets;
  int64_t count = 0;

  LiveRows(const Sizes& sizes, const std::vector<int64_t>& of_rows) : n(sizes), lengths(of_rows) {
    for (int64_t t = 0; t < n.T; ++t) {
      offsets.push_back(count);
      for (const int64_t length : lengths) count += t < length;
    }
  }
  bool is_live(int64_t t, int64_t row) const { return t < lengths[static_cast<std::size_t>(row)]; }
  template <class T>
  Array<T> of(const Array<T>& padded, int64_t units) const {
    Array<T> rows;
    for (int64_t at = 0; at < n.T * n.B; ++at) {
      const auto from = padded.begin() + at * units;
      if (is_live(at / n.B, at % n.B)) rows.insert(rows.end(), from, from + units);
    }
    return rows;
  }
  template <class T>
  Array<T> padded(const Array<T>& rows, int64_t units) const {
    Array<T> all(static_cast<std::size_t>(n.T * n.B * units), T(0));
    auto from = rows.begin();
    for (int64_t at = 0; at < n.T * n.B; ++at) {
      if (!is_live(at / n.B, at % n.B)) continue;
      std::copy(from, from + units, all.begin() + at * units);
      from += units;
    }
    return all;
  }
};

// All outputs of inference, training forward and backward, one after another.
template <class F, class T = typename F::Compute>
Array<T> run(CellId cell, const Sizes& n, const Weights<F>& w, bool reverse, bool with_lengths, const Way& way = {}) {
  const CellFacts& f = facts_of(cell);
  std::mt19937 rng(1);
  auto x = random<T>(rng, n.T * n.B * n.I), dy = random<T>(rng, n.T * n.B * w.proj());
  auto below = random<T>(rng, n.T * n.B * n.H), dc = random<T>(rng, n.T * n.B * n.H);
  std::vector<int64_t> lengths(static_cast<std::size_t>(n.B)), start = lengths;
  for (int64_t b = 0; b < n.B; ++b) {
    lengths[static_cast<std::size_t>(b)] = (b * 7 + 3) % (n.T + 1);
    start[static_cast<std::size_t>(b)] = b % 3;
  }
  if (way.falling) std::sort(lengths.rbegin(), lengths.rend());
  const LiveRows live(n, lengths);
  const int64_t P = w.proj(), places = way.packed ? live.count : n.T * n.B;
  if (way.packed) {
    x = live.of(x, n.I);
    dy = live.of(dy, P);
    below = live.of(below, n.H);
    dc = live.of(dc, n.H);
  }
  auto y = unwritten<T>(places * P);
  Array<T> state0[kMaxStates], state_n[kMaxStates], dstate0[kMaxStates], reset_state[kMaxStates], dreset[kMaxStates];
  std::vector<std::uint8_t> resets;
  for (int64_t at = 0; at < n.T * n.B; ++at) resets.push_back(rng() % 4 == 0);
  if (way.packed) resets = live.of(resets, 1);
  Problem<T> p{};
  p.seq_len = n.T;
  p.batch = n.B;
  p.y_stride = P;
  p.reverse = reverse;
  p.lengths = with_lengths ? lengths.data() : nullptr;
  p.offsets = way.packed ? live.offsets.data() : nullptr;
  p.start = with_lengths ? start.data() : nullptr;
  p.x = x.data();
  p.y = y.data();
  auto c = unwritten<T>(places * n.H), dbelow = c;
  if (f.below) p.below = below.data(), p.c = c.data();
  for (int s = 0; s < f.states; ++s) {
    const int64_t size = n.B * (s == 0 ? P : f.state[s].units * n.H);
    state0[s] = random<T>(rng, size);
    state_n[s] = unwritten<T>(size);
    dstate0[s] = unwritten<T>(size);
    if (!reverse) p.state0[s] = state0[s].data();  // else zeros
    p.state_n[s] = state_n[s].data();
    if (!way.resets) continue;
    reset_state[s] = random<T>(rng, size);
    dreset[s] = unwritten<T>(size);
    p.reset_state[s] = reset_state[s].data();
  }
  if (way.resets) p.resets = resets.data();
  p.drop.source.seed = 5;
  const WeightView<T> view = w.view();
  Stack<F> stack{std::vector<Layer<F>>(1), 1, {}, false};
  const auto place = [&](const Gradients<T>& g) {
    stack.layers[0].direction[0] = {way.lent ? nullptr : &w, way.lent ? &view : nullptr, p, g};
  };
  place({});
  run_forward(stack);
  Array<T> all;
  const auto append = [&all](const Array<T>& a) { all.insert(all.end(), a.begin(), a.end()); };
  // With zeros past the lengths.
  const auto append_rows = [&](const Array<T>& a, int64_t units) { append(way.packed ? live.padded(a, units) : a); };
  append_rows(y, P);
  for (int s = 0; s < f.states; ++s) append(state_n[s]);

  const int64_t h_stride = P + 3;
  auto slots = unwritten<T>(places * f.slots * n.H + 1), h = unwritten<T>(places * h_stride);
  auto c_zoned = unwritten<T>(places * n.H);
  p.slots = slots.data();
  if (w.view().options.has(kZoneoutC)) p.drop.c = c_zoned.data();
  p.h = h.data();
  p.h_stride = h_stride;
  place({});
  run_forward(stack);
  append_rows(y, P);
  std::fill(y.begin(), y.end(), std::numeric_limits<T>::quiet_NaN());  // backward does not read it
  const Array<T> kept_slots = slots, kept_h = h;
  auto dx = unwritten<T>(places * n.I), dw_ih = unwritten<T>(f.gates * n.H * n.I);
  auto db_ih = unwritten<T>(f.gates * n.H), db_hh = unwritten<T>(f.recurrent_gates * n.H);
  auto dvectors = unwritten<T>(f.vectors * n.H);
  Array<T> dmatrix[kMaxMatrices];
  Gradients<T> g{};
  g.dy = dy.data();
  g.dy_stride = P;
  g.dx = dx.data();
  g.dweight_ih = dw_ih.data();
  g.dbias_ih = db_ih.data();
  if (f.recurrent_gates > 0) g.dbias_hh = db_hh.data();
  g.dvectors = dvectors.data();
  if (f.below) g.dc = dc.data(), g.dbelow = dbelow.data();
  for (int s = 0; s < f.states; ++s) {
    g.dstate0[s] = dstate0[s].data();
    if (way.resets) g.dreset[s] = dreset[s].data();
    if (reverse) g.dstate_n[s] = state0[s].data();  // any numbers; else zeros
  }
  for (int m = 0; m < f.matrices; ++m) {
    dmatrix[m] = unwritten<T>(f.matrix[m].blocks * block_rows(f, m, n.H, P) * matrix_columns(f, m, n.H, P, n.heads));
    g.dmatrix[m] = dmatrix[m].data();
  }
  place(g);
  run_backward(stack);
  same(slots, kept_slots, "backward on its reserve", cell);
  same(h, kept_h, "backward on its reserve", cell);
  append_rows(dx, n.I);
  for (const auto* a : {&dw_ih, &db_ih, &db_hh, &dvectors}) append(*a);
  if (f.below) append_rows(c, n.H), append_rows(dbelow, n.H);
  for (const auto& a : dmatrix) append(a);
  for (const auto& a : dstate0) append(a);
  for (const auto& a : dreset) append(a);
  for (const T v : all) {
    if (std::isnan(v)) {
      std::printf("%s (%s): an output was not written, or is NaN\n", f.name, current_isa().kernels->isa);
      std::exit(1);
    }
  }
  return all;
}

template <class F, class T = typename F::Compute>
std::unique_ptr<Weights<F>> make_weights(CellId cell, const Sizes& n, const Probabilities& options = {}) {
  std::mt19937 rng(2);
  const CellFacts& f = facts_of(cell);
  const int64_t P = f.projection < 0 ? n.H : (n.H + 1) / 2;
  const auto w_ih = random<T>(rng, f.gates * n.H * n.I), b = random<T>(rng, f.gates * n.H);
  const auto vectors = random<T>(rng, f.vectors * n.H);
  Array<T> matrix[kMaxMatrices];
  std::vector<int64_t> periods = {1, 2, 2, 5};
  periods.resize(!f.clocked ? 0 : n.H % 4 == 0 ? 4 : n.H % 3 == 0 ? 3 : 1);
  const auto clocks = clocks_of(periods, n.H);
  WeightArrays<T> arrays{w_ih.data(),    {},     b.data(),      b.data(),
                         vectors.data(), T(0.1), clocks.data(), static_cast<int>(clocks.size())};
  for (int m = 0; m < f.matrices; ++m) {
    matrix[m] = random<T>(rng, f.matrix[m].blocks * block_rows(f, m, n.H, P) * matrix_columns(f, m, n.H, P, n.heads));
    arrays.matrix[m] = matrix[m].data();
  }
  return std::make_unique<Weights<F>>(WeightView<T>{cell, n.I, n.H, P, n.heads, arrays, options});
}

// All outputs of layers above each other, in one direction or both, with dropout between them.
template <class F, class T = typename F::Compute>
Array<T> run_stack(const std::vector<std::unique_ptr<Weights<F>>>& weights, const Sizes& n, int directions, double p) {
  std::mt19937 rng(3);
  const CellFacts& f = facts_of(weights[0]->cell());
  const int64_t P = weights[0]->proj(), H = n.H, steps = n.T * n.B, width = directions * P;
  const auto layers = weights.size() / static_cast<std::size_t>(directions);
  const auto x = random<T>(rng, steps * n.I), dy = random<T>(rng, steps * width);
  std::vector<int64_t> lengths(static_cast<std::size_t>(n.B));
  for (int64_t b = 0; b < n.B; ++b) lengths[static_cast<std::size_t>(b)] = (b * 5 + 4) % (n.T + 1);
  std::vector<std::unique_ptr<Array<T>>> all;
  const auto make = [&](int64_t size) { return all.emplace_back(new Array<T>(unwritten<T>(size)))->data(); };
  Stack<F> stack{std::vector<Layer<F>>(layers), directions, {p, 77}, true};
  std::vector<std::unique_ptr<Buffer>> slots;
  const T* below = x.data();
  for (std::size_t l = 0; l < layers; ++l) {
    Layer<F>& layer = stack.layers[l];
    T* const y = make(steps * width);
    T* const dx = make(steps * (l == 0 ? n.I : width));
    layer.dropped = l + 1 < layers && p > 0 ? make(steps * width) : nullptr;
    for (int d = 0; d < directions; ++d) {
      Direction<F>& run = layer.direction[d];
      run = {weights[l * static_cast<std::size_t>(directions) + static_cast<std::size_t>(d)].get(), nullptr, {}, {}};
      run.p.seq_len = n.T, run.p.batch = n.B, run.p.reverse = d > 0;
      run.p.lengths = lengths.data();
      run.p.x = below, run.p.y = y + d * P, run.p.h = run.p.y, run.p.y_stride = run.p.h_stride = width;
      slots.emplace_back(new Buffer(static_cast<std::size_t>(steps * f.slots * H) * sizeof(T)));
      run.p.slots = slots.back()->template as<T>();
      if (f.below) run.p.c = make(steps * H);
      if (f.below && l > 0) {
        run.p.below = stack.layers[l - 1].direction[d].p.c;
        run.g.dbelow = make(steps * H);
        stack.layers[l - 1].direction[d].g.dc = run.g.dbelow;
      }
      for (int s = 0; s < f.states; ++s) {
        run.p.state_n[s] = make(n.B * (s == 0 ? P : f.state[s].units * H));
        run.g.dstate0[s] = make(n.B * (s == 0 ? P : f.state[s].units * H));
      }
      run.g.dy = dy.data() + d * P, run.g.dy_stride = width, run.g.dx = dx;
      if (l > 0) stack.layers[l - 1].direction[d].g.dy = dx + d * P;
      run.g.dweight_ih = make(f.gates * H * (l == 0 ? n.I : width));
      run.g.dbias_ih = make(f.gates * H);
      if (f.recurrent_gates > 0) run.g.dbias_hh = make(f.recurrent_gates * H);
      run.g.dvectors = make(f.vectors * H);
      for (int m = 0; m < f.matrices; ++m) {
        run.g.dmatrix[m] = make(f.matrix[m].blocks * block_rows(f, m, H, P) * matrix_columns(f, m, H, P, n.heads));
      }
    }
    below = layer.dropped ? layer.dropped : y;
  }
  Array<T> results;
  Stack<F> inference = stack;
  for (Layer<F>& layer : inference.layers) {
    for (Direction<F>& run : layer.direction) run.p.slots = nullptr;
  }
  run_forward(inference);
  const T* const top = inference.layers.back().direction[0].p.y;
  results.insert(results.end(), top, top + steps * width);
  run_forward(stack);
  run_backward(stack);
  for (const auto& a : all) results.insert(results.end(), a->begin(), a->end());
  for (const T v : results) {
    if (std::isnan(v)) {
      std::printf("%s: an output of a stack was not written, or is NaN\n", f.name);
      std::exit(1);
    }
  }
  return results;
}

template <class F>
int check(CellId cell, const Sizes& n) {
  int runs = 0;
  const auto made = make_weights<F>(cell, n);
  const Weights<F>& w = *made;
  for (const bool reverse : {false, true}) {
    for (const bool with_lengths : {false, true}) {
      if (brief && with_lengths != reverse) continue;
      set_isa(available_isas().back());
      set_schedule("one");
      const auto want = run(cell, n, w, reverse, with_lengths);
      take_bits(want);
      for (const std::string& isa : available_isas()) {
        set_isa(isa);
        for (const std::string schedule : {"one", "rows", reverse ? "units" : "2x2"}) {
          // Threads are the same for all ISAs: the best one shows what they do.
          if (schedule != (reverse ? "units" : "rows") && (brief || isa != available_isas().front())) continue;
          set_schedule(schedule);
          same(run(cell, n, w, reverse, with_lengths), want, (isa + ", " + schedule).c_str(), cell);
          ++runs;
        }
      }
    }
  }
  return runs;
}

// Weights where they lie, read in place and packed before; and packed sequences.
template <class F>
int check_ways(CellId cell, const Sizes& n) {
  int runs = 0;
  const auto made = make_weights<F>(cell, n);
  set_isa(available_isas().front());
  for (const bool reverse : {false, true}) {
    set_schedule("one");
    const auto want = run(cell, n, *made, reverse, true, {false, false, true});
    take_bits(want);
    for (const std::string in_place : {"never", "always"}) {
      set_in_place(in_place);
      for (const std::string schedule : {"rows", "units"}) {
        if (brief && schedule != "units") continue;
        set_schedule(schedule);
        same(run(cell, n, *made, reverse, true, {true, false, true}), want, "reading weights where they lie", cell);
        same(run(cell, n, *made, reverse, true, {true, true, true}), want, "packing sequences", cell);
        runs += 2;
      }
    }
  }
  set_in_place("auto");
  return runs;
}

// Episodes and options of regularisation, of which backward finds the same masks.
template <class F>
int check_masks(CellId cell, const Sizes& n) {
  int runs = 0;
  const auto made = make_weights<F>(cell, n, all_options(facts_of(cell)));
  for (const bool reverse : {false, true}) {
    set_isa(available_isas().back());
    set_schedule("one");
    const auto want = run(cell, n, *made, reverse, true, {false, false, true, true});
    take_bits(want);
    set_isa(available_isas().front());
    for (const std::string schedule : {"rows", "units", "2x2"}) {
      if (brief && schedule != "units") continue;
      set_schedule(schedule);
      same(run(cell, n, *made, reverse, true, {reverse, false, true, true}), want, "a mask or an episode", cell);
      same(run(cell, n, *made, reverse, true, {true, true, true, true}), want, "packing masked sequences", cell);
      runs += 2;
    }
  }
  return runs;
}

// Stacks, under all schedules: five layers in one direction, so that a wave front is long, and two in both, with
// dropout.
template <class F>
int check_stack(CellId cell, const Sizes& n) {
  int runs = 0;
  for (const int directions : {1, 2}) {
    std::vector<std::unique_ptr<Weights<F>>> weights;
    const int64_t P = facts_of(cell).projection < 0 ? n.H : (n.H + 1) / 2;
    for (int i = 0; i < (directions == 1 ? 5 : 4); ++i) {
      weights.push_back(make_weights<F>(cell, {n.T, n.B, i < directions ? n.I : directions * P, n.H, n.heads}));
    }
    const double p = 0.5;
    set_isa(available_isas().front());
    set_schedule("one");
    const auto want = run_stack(weights, n, directions, p);
    take_bits(want);
    for (const std::string schedule : {"rows", "units", "wave", "auto"}) {
      if (brief && schedule != "auto") continue;
      set_schedule(schedule);
      same(run_stack(weights, n, directions, p), want, ("a stack's schedule " + schedule).c_str(), cell);
      ++runs;
    }
  }
  return runs;
}

// A stream's launch allocates nothing once it has run.
void check_allocations() {
  const auto w = make_weights<Float32>(static_cast<CellId>(0), {1, 3, 40, 40});
  Array<float> x(120), y(120), h(120);
  Stack<Float32> stack{std::vector<Layer<Float32>>(2), 1, {}, false};
  for (Layer<Float32>& layer : stack.layers) {
    layer.direction[0].weights = w.get();
    auto& p = layer.direction[0].p;
    p.seq_len = 1, p.batch = 3, p.x = x.data(), p.y = y.data(), p.y_stride = 40;
    p.state0[0] = h.data();
  }
  stack.layers[1].direction[0].p.x = y.data();
  stack.layers[1].direction[0].p.y = h.data();
  stack.layers[1].direction[0].p.state0[0] = nullptr;
  for (const std::string schedule : {"one", "units"}) {
    set_schedule(schedule);
    run_forward(stack);
    const long before = allocations.load();
    run_forward(stack);
    if (allocations.load() == before) continue;
    std::printf("a step allocates under schedule %s\n", schedule.c_str());
    std::exit(1);
  }
}

// Callers at once, on weights that nobody has packed yet.
template <class F>
void callers(CellId cell, const Sizes& n) {
  set_schedule("units");
  const auto want = run(cell, n, *make_weights<F>(cell, n), false, false);
  const auto made = make_weights<F>(cell, n);
  const Weights<F>& fresh = *made;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 3; ++j) same(run(cell, n, fresh, false, false), want, "another caller", cell);
    });
  }
  for (std::thread& t : threads) t.join();
}

// Heads of few units and of many, some in parts that have whole heads, and some in parts that share one.
int check_heads(CellId cell) {
  int runs = 0;
  for (const Sizes& n : {Sizes{4, 5, 7, 20, 4}, Sizes{6, 13, 20, 66, 2}, Sizes{3, 2, 2, 3, 3}}) {
    runs += check<Float32>(cell, n);
    if (n.T < 5) runs += check<Float64>(cell, n);
  }
  runs += check_stack<Float32>(cell, {9, 3, 5, 36, 3});
  return runs + check_ways<Float32>(cell, {5, 9, 40, 100, 2});
}

// The threads of an OpenMP runtime, which may be fewer than were asked for; several callers at once.
template <class F>
int check_openmp(CellId cell, const Sizes& n) {
  if (!host_openmp()) {
    std::printf("the OpenMP runtime of this program was not found\n");
    std::exit(1);
  }
  set_isa(available_isas().front());
  const auto made = make_weights<F>(cell, n);
  set_thread_source("pool");
  set_schedule("one");
  const auto want = run(cell, n, *made, false, true);
  set_thread_source("openmp");
  for (const std::string schedule : {"rows", "units"}) {
    set_schedule(schedule);
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] { same(run(cell, n, *made, false, true), want, "OpenMP", cell); });
    }
    for (std::thread& t : threads) t.join();
  }
  const int runs = check_stack<F>(cell, n);
  set_thread_source("auto");
  return runs + 2;
}

// The processor's instructions: our answers are those of the compiler's own functions, where it has them.
void check_processor() {
#if defined(__linux__) && defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (has_avx2() == avx2 && has_avx512() == avx512) return;
  std::printf("the processor has AVX2: %d, not %d; AVX-512: %d, not %d\n", avx2, has_avx2(), avx512, has_avx512());
  std::exit(1);
#endif
}

// Sizes that 64 bits can count, and sizes that they cannot. That packing and calls ask for no more is asserted there.
void check_sizes(CellId cell) {
  const CellFacts& f = facts_of(cell);
  constexpr int64_t kHuge = int64_t{1} << 61;
  const bool small = sizes_fit(f, 1024, 1024) && call_fits(f, 1024, 1024, 1000, 1000) && call_fits(f, 1, 1, 0, 0);
  const bool large = sizes_fit(f, kHuge, 1) || sizes_fit(f, 1, kHuge) || call_fits(f, 64, 64, kHuge, 1) ||
                     call_fits(f, 64, 64, 0, kHuge) || call_fits(f, 64, 64, kHuge >> 30, kHuge >> 30);
  const bool heads =
      call_fits(f, 1024, 1024, 1000, 1000, 8) && !sizes_fit(f, kHuge, 1, 2) && !sizes_fit(f, 1, 1, kHuge);
  if (small && !large && heads) return;
  std::printf("%s: sizes that fit are refused, or sizes that do not are accepted\n", f.name);
  std::exit(1);
}

// Whether drivers go another way for this cell than for those before it.
bool is_distinct(int cell) {
  const auto key = [&](int i) {
    const CellFacts& f = facts_of(static_cast<CellId>(i));
    const auto depth = f.products > 0 ? f.product[0].depth : 0;
    return std::make_tuple(f.gates, f.states, f.slots, f.phases, f.products, f.matrices, f.vectors > 0,
                           f.state[0].carries, f.clocked, depth);
  };
  for (int i = 0; i < cell; ++i) {
    if (key(i) == key(cell)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  brief = argc > 1 && std::strcmp(argv[1], "brief") == 0;
  std::vector<Sizes> sizes = {{4, 5, 7, 19},   {0, 3, 2, 5},   {2, 0, 3, 5},    {3, 2, 1, 1},
                              {6, 13, 20, 33}, {9, 3, 5, 100}, {5, 70, 40, 48}, {2, 3000, 2, 17},  // in slices
                              {300, 1, 2, 17}, {60, 9, 3, 16}};  // in chunks of backward
  if (brief) sizes = {{4, 5, 7, 19}, {3, 2, 1, 1}, {2, 13, 20, 33}, {3, 2, 5, 100}};
  check_processor();
  set_num_threads(argc > 2 ? std::atoi(argv[2]) : brief ? 1 : 4);
  int runs = 0, distinct = 0;
  for (int i = 0; i < kCells; ++i) {
    const auto cell = static_cast<CellId>(i);
    check_sizes(cell);
    distinct += is_distinct(i);
    for (const Sizes& n : sizes) {
      if (&n >= sizes.data() + (brief ? 1 : 3) && !is_distinct(i)) break;
      runs += check<Float32>(cell, n);
      if (n.T < 5) runs += check<Float64>(cell, n);
    }
    if (!brief) callers<Float32>(cell, {12, 6, 32, 150});
    if (!is_distinct(i)) continue;
    runs += check_stack<Float32>(cell, {brief ? 3 : 9, 3, 5, 36});
    if (brief) {
      runs += check_ways<Float32>(cell, {2, 4, 70, 33});
      runs += i % 2 == 1 ? check_masks<Float64>(cell, {4, 3, 9, 33}) : check_masks<Float32>(cell, {4, 3, 9, 33});
      if (takes_heads(facts_of(cell))) runs += check<Float32>(cell, {4, 5, 7, 20, 4});
      continue;
    }
    runs += check_stack<Float32>(cell, {140, 2, 3, 16});
    if (kListsLibraries && i % 8 == 0) runs += check_openmp<Float32>(cell, {9, 5, 5, 36});
    for (const Sizes& n : {Sizes{5, 9, 40, 100}, Sizes{3, 4, 70, 33}, Sizes{140, 4, 3, 17}})
      runs += check_ways<Float32>(cell, n);
    for (const Sizes& n : {Sizes{6, 13, 20, 33}, Sizes{60, 5, 3, 16}, Sizes{3, 70, 9, 48}})
      runs += n.T == 3 ? check_masks<Float64>(cell, n) : check_masks<Float32>(cell, n);
    if (takes_heads(facts_of(cell))) runs += check_heads(cell) + check_masks<Float32>(cell, {6, 13, 20, 66, 2});
  }
  check_allocations();
  std::printf("%d cells, %d of them distinct, best ISA %s, bits %016llx\n", kCells, distinct,
              available_isas().front().c_str(), static_cast<unsigned long long>(bits));
  std::printf("%d passed, 0 failed\n", runs);
}
