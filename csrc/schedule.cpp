#include "schedule.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "run.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

constexpr const char* kScheduleNames[] = {"auto", "one", "rows", "units"};
std::atomic<int> asked_schedule{0};

// Where one schedule overtakes another, by bench/schedules.py on two cores with 2 MB of L2 each.
struct Thresholds {
  static constexpr double kTinyCall = 4e6;          // multiply-adds of a call that ends before other threads are awake
  static constexpr double kTinyStep = 20e3;         // multiply-adds of a step that costs less than a meeting of threads
  static constexpr double kSmallWeights = 256e3;    // bytes that are worth a thread's pass for a single row
  static constexpr double kPrivateWeights = 1.5e6;  // bytes that one core keeps to itself
  static constexpr int64_t kSomeRows = 4;           // rows that make a pass over private weights worthwhile
  static constexpr int64_t kManyRows = 24;  // rows that make it worthwhile to fetch weights from the shared cache
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

void set_schedule(const std::string& name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kScheduleNames[i]) return asked_schedule.store(i, std::memory_order_relaxed);
  }
  throw std::invalid_argument("schedule: expected one of 'auto', 'one', 'rows', 'units', got '" + name + "'");
}

bool is_schedule_asked() { return asked_schedule.load(std::memory_order_relaxed) != 0; }

double multiply_adds(const CellFacts& f, int64_t seq_len, int64_t batch, int64_t input, int64_t hidden, int64_t proj) {
  const double projection = static_cast<double>(f.gates) * static_cast<double>(hidden) * static_cast<double>(input);
  return static_cast<double>(seq_len) * static_cast<double>(batch) * (projection + recurrent_weights(f, hidden, proj));
}

bool is_tiny(double work) { return work < Thresholds::kTinyCall; }

// The three schedules, all of which give the same bits: one thread for tiny problems; batch-parallel, where each thread
// has its own rows and never waits, if there are rows enough to make each pass over the weights worthwhile;
// else unit-parallel, where each thread keeps its part of the weights in its own cache and all meet in every step.
Schedule choose(const CellFacts& f, int64_t batch, int64_t hidden, int64_t proj, double work, int64_t tiles,
                int threads, std::size_t storage_bytes) {
  const double per_row = recurrent_weights(f, hidden, proj);
  const double per_step = per_row * static_cast<double>(batch);
  const Schedule rows{static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, batch))), 1};
  const Schedule units{1, static_cast<int>(std::min<int64_t>(threads, tiles))};
  if (const int asked = asked_schedule.load(std::memory_order_relaxed)) {
    return asked == 1 ? Schedule{1, 1} : asked == 2 ? rows : units;
  }
  if (threads <= 1 || is_tiny(work)) return {1, 1};
  const int64_t rows_each = batch / threads;
  const double bytes = per_row * static_cast<double>(storage_bytes);
  const int64_t enough = bytes <= Thresholds::kSmallWeights     ? 1
                         : bytes <= Thresholds::kPrivateWeights ? Thresholds::kSomeRows
                                                                : Thresholds::kManyRows;
  return rows_each >= enough || per_step < Thresholds::kTinyStep ? rows : units;
}

}  // namespace fusedrnn
