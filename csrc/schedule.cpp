#include "schedule.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "run.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

constexpr const char* kScheduleNames[] = {"auto", "one", "rows", "units", "wave"};
constexpr int kScheduleCount = sizeof kScheduleNames / sizeof *kScheduleNames;
enum Asked : int { kAuto, kOne, kRows, kUnits, kWave };
std::atomic<int> asked_schedule{kAuto};
std::atomic<int> asked_in_place{-1};  // 0 never, 1 always; -1 by size

// Where one schedule overtakes another, by bench/schedules.py on two cores with 2 MB of L2 each.
struct Thresholds {
  static constexpr double kTinyCall = 4e6;          // multiply-adds of a call that ends before other threads are awake,
  static constexpr double kTinyWeights = 1.5e6;     // if it has no more weights than one core keeps: bytes
  static constexpr double kTinyStep = 20e3;         // multiply-adds of a step that costs less than a meeting of threads
  static constexpr double kSmallWeights = 256e3;    // bytes that are worth a thread's pass for a single row
  static constexpr double kPrivateWeights = 1.5e6;  // bytes that one core keeps to itself
  static constexpr int64_t kSomeRows = 4;           // rows that make a pass over private weights worthwhile
  static constexpr int64_t kManyRows = 24;  // rows that make it worthwhile to fetch weights from the shared cache
  // By bench/weights.py.
  static constexpr double kOnePass = 1e6;     // bytes of weights that are read in place, if one pass is enough,
  static constexpr double kTwoPasses = 16e6;  // or two
  static constexpr double kTask = 200e3;      // multiply-adds of a task that outweigh its start
  static constexpr int64_t kRanges = 8;       // of a wave front for each thread, so that few wait at its ends
};

// Multiply-adds of all recurrent products of a step, for one row.
double recurrent_weights(const CellFacts& f, int64_t hidden, int64_t proj) {
  double sum = 0;
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    sum += static_cast<double>(p.gates) * static_cast<double>(product_units(f, i, hidden, proj)) *
           static_cast<double>(operand_size(p.from, p.depth, hidden, proj));
  }
  return sum;
}

}  // namespace

void set_in_place(const std::string& name) {
  if (name != "auto" && name != "never" && name != "always") {
    throw std::invalid_argument("in_place: expected one of 'auto', 'never', 'always', got '" + name + "'");
  }
  asked_in_place.store(name == "auto" ? -1 : name == "always", std::memory_order_relaxed);
}

bool worth_in_place(int64_t passes, double weight_bytes) {
  if (const int asked = asked_in_place.load(std::memory_order_relaxed); asked >= 0) return asked == 1;
  return passes <= 1 ? weight_bytes >= Thresholds::kOnePass : passes == 2 && weight_bytes >= Thresholds::kTwoPasses;
}

void set_schedule(const std::string& name) {
  for (int i = 0; i < kScheduleCount; ++i) {
    if (name == kScheduleNames[i]) return asked_schedule.store(i, std::memory_order_relaxed);
  }
  throw std::invalid_argument("schedule: expected one of 'auto', 'one', 'rows', 'units', 'wave', got '" + name + "'");
}

bool is_schedule_asked() { return asked_schedule.load(std::memory_order_relaxed) != 0; }

void Work::add(const CellFacts& f, int64_t seq_len, int64_t batch, int64_t input, int64_t hidden, int64_t proj,
               std::size_t storage_bytes) {
  const double projection = static_cast<double>(f.gates) * static_cast<double>(hidden) * static_cast<double>(input);
  const double weights = projection + recurrent_weights(f, hidden, proj);
  multiply_adds += static_cast<double>(seq_len) * static_cast<double>(batch) * weights;
  weight_bytes += weights * static_cast<double>(storage_bytes);
}

bool Work::is_tiny() const { return multiply_adds < Thresholds::kTinyCall && weight_bytes < Thresholds::kTinyWeights; }

// The three schedules, all of which give the same bits: one thread for tiny problems; batch-parallel, where each thread
// has its own rows and never waits, if there are rows enough to make each pass over the weights worthwhile;
// else unit-parallel, where each thread keeps its part of the weights in its own cache and all meet in every step.
Schedule choose(const CellFacts& f, int64_t batch, int64_t hidden, int64_t proj, const Work& work, int64_t tiles,
                int threads, std::size_t storage_bytes) {
  const double per_row = recurrent_weights(f, hidden, proj);
  const double per_step = per_row * static_cast<double>(batch);
  const Schedule rows{static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, batch))), 1};
  const Schedule units{1, static_cast<int>(std::min<int64_t>(threads, tiles))};
  if (const int asked = asked_schedule.load(std::memory_order_relaxed)) {
    return asked == kOne || asked == kWave ? Schedule{1, 1} : asked == kRows ? rows : units;
  }
  if (threads <= 1 || work.is_tiny()) return {1, 1};
  const int64_t rows_each = batch / threads;
  const double bytes = per_row * static_cast<double>(storage_bytes);
  const int64_t enough = bytes <= Thresholds::kSmallWeights     ? 1
                         : bytes <= Thresholds::kPrivateWeights ? Thresholds::kSomeRows
                                                                : Thresholds::kManyRows;
  return rows_each >= enough || per_step < Thresholds::kTinyStep ? rows : units;
}

int64_t wave_steps(const CellFacts& f, const Schedule& s, int64_t seq_len, int64_t batch, int64_t hidden, int64_t proj,
                   int layers, int threads, std::size_t storage_bytes) {
  const int asked = asked_schedule.load(std::memory_order_relaxed);
  if (layers < 2 || threads < 2 || seq_len < 2 || f.clocked || (asked != kAuto && asked != kWave)) return 0;
  if (asked == kWave) return seq_len < 8 ? 1 : 3;
  // Layers that one thread runs leave the others free. Where threads share the units of a layer, whole layers save
  // their meetings, if there are layers for all threads. The weights of a thread's layers must stay in its own cache.
  if (!(s.workers() == 1 || (s.tile_parts > 1 && threads <= layers))) return 0;
  const double per_row = recurrent_weights(f, hidden, proj);
  const double of_layer = per_row + static_cast<double>(f.gates) * static_cast<double>(hidden * proj);
  const int layers_each = (layers + threads - 1) / threads;
  const double bytes_each = static_cast<double>(layers_each) * of_layer * static_cast<double>(storage_bytes);
  if (bytes_each > Thresholds::kPrivateWeights) return 0;
  const auto least = static_cast<int64_t>(Thresholds::kTask / (of_layer * static_cast<double>(batch))) + 1;
  const int64_t steps = std::max(least, seq_len / (Thresholds::kRanges * std::min(threads, layers)));
  return 2 * steps <= seq_len ? steps : 0;
}

}  // namespace fusedrnn
