#include "schedule.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <stdexcept>
#include <system_error>

#include "heads.hpp"
#include "run.hpp"
#include "sizes.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

constexpr const char* kScheduleNames[] = {"auto", "one", "rows", "units", "wave"};
constexpr int kScheduleCount = sizeof kScheduleNames / sizeof *kScheduleNames;
enum Asked : int { kAuto, kOne, kRows, kUnits, kWave, kGrid };
// One of these; of a grid, with its parts: (rows * kParts + units) * kKinds + kGrid.
constexpr int kKinds = 8, kParts = 2 * kMostThreads;
std::atomic<int> asked_schedule{kAuto};
std::atomic<int> asked_in_place{-1};  // 0 never, 1 always; -1 by size

// By bench/weights.py.
constexpr double kOnePass = 1e6;     // bytes of weights that are read in place, if one pass is enough,
constexpr double kTwoPasses = 16e6;  // or two

constexpr double kTask = 200e3;  // multiply-adds of a task of a wave front that outweigh its start
constexpr int64_t kRanges = 8;   // of a wave front for each thread, so that few wait at its ends
constexpr double kGain = 0.97;   // more threads must take less than this share of the time of fewer

int asked() { return asked_schedule.load(std::memory_order_relaxed); }

// "2x3": rows x units; -1 for any other text.
int grid_of(const std::string& name) {
  int parts[2] = {};
  const char *at = name.data(), *const end = at + name.size();
  for (int& n : parts) {
    if (&n != parts) {
      if (at == end || *at != 'x') return -1;
      ++at;
    }
    const auto read = std::from_chars(at, end, n);
    if (read.ec != std::errc() || n < 1 || n > kMostThreads) return -1;
    at = read.ptr;
  }
  return at == end ? (parts[0] * kParts + parts[1]) * kKinds + kGrid : -1;
}

}  // namespace

void set_in_place(const std::string& name) {
  if (name != "auto" && name != "never" && name != "always") {
    throw std::invalid_argument("in_place: expected one of 'auto', 'never', 'always', got '" + name + "'");
  }
  asked_in_place.store(name == "auto" ? -1 : name == "always", std::memory_order_relaxed);
}

bool worth_in_place(int64_t passes, double weight_bytes) {
  if (const int wanted = asked_in_place.load(std::memory_order_relaxed); wanted >= 0) return wanted == 1;
  return passes <= 1 ? weight_bytes >= kOnePass : passes == 2 && weight_bytes >= kTwoPasses;
}

void set_schedule(const std::string& name) {
  for (int i = 0; i < kScheduleCount; ++i) {
    if (name == kScheduleNames[i]) return asked_schedule.store(i, std::memory_order_relaxed);
  }
  const int grid = grid_of(name);
  if (grid < 0) {
    throw std::invalid_argument(
        "schedule: expected one of 'auto', 'one', 'rows', 'units', 'wave' or parts of rows and units such as '2x3', "
        "got '" +
        name + "'");
  }
  asked_schedule.store(grid, std::memory_order_relaxed);
}

bool is_schedule_asked() { return asked() != kAuto; }

namespace {

// A schedule of one side, how many workers it has, and how long all layers take in one direction.
struct Choice {
  Schedule schedule;
  int workers;
  double time;
};

int64_t parts_of(int64_t n, int64_t most) { return std::max<int64_t>(1, std::min(n, most)); }
int64_t tiles_of(const CallSize& call) {
  return Heads(call.lowest.hidden, call.lowest.heads, call.kind.lanes).all_tiles();
}

double time_of(const CallSize& call, const Schedule& s, int workers) {
  const auto layer = [&](const LayerSize& size) {
    const CostModel model(machine(), call.kind, size);
    return call.backward ? model.backward(s, workers) : model.forward(s);
  };
  double time = layer(call.lowest);
  if (call.layers > 1) time += (call.layers - 1) * layer(call.above);
  return time;
}

double start_of(int workers) { return workers < 2 ? 0 : machine().start + machine().start_more * (workers - 1); }

// As few parts as give the largest one the size that so many parts do.
int64_t fewest(int64_t n, int64_t parts) {
  const int64_t largest = (n + parts - 1) / parts;
  return (n + largest - 1) / largest;
}

// Whether this choice takes less time than another, with the start of its workers, in so many directions one after the
// other. More than one thread must gain something over one.
bool beats(const Choice& a, const Choice& b, int directions) {
  const auto all = [&](const Choice& c) { return directions * c.time + start_of(c.workers); };
  return all(a) < (b.workers == 1 ? kGain : 1) * all(b);
}

// Of all grids of up to so many threads, and of halves of them.
Choice cheapest(const CallSize& call, int threads, int directions) {
  Choice best{{1, 1}, 1, time_of(call, {1, 1}, 1)};
  if (directions * best.time < machine().start) return best;
  const int64_t batch = call.lowest.batch, tiles = tiles_of(call);
  for (int n = threads; n > 1; n /= 2) {
    int64_t last_units = 0;
    for (int64_t most = 1; most <= std::min<int64_t>(n, tiles); ++most) {
      const int64_t units = fewest(tiles, most);
      if (units == last_units) continue;
      last_units = units;
      const Schedule s{static_cast<int>(fewest(batch, parts_of(n / units, batch))), static_cast<int>(units)};
      const int workers = call.backward ? n : s.workers();
      if (workers < 2) continue;
      const Choice choice{s, workers, time_of(call, s, workers)};
      if (beats(choice, best, directions)) best = choice;
    }
  }
  return best;
}

// How many steps layers above each other run at a time, where that costs less than `in_turn`; else 0.
int64_t wave_steps(const CallSize& call, int threads, double in_turn) {
  const LayerSize& above = call.above;
  if (!call.can_wave || call.layers < 2 || threads < 2 || above.seq_len < 2) return 0;
  const int sides = std::min(threads, call.layers);
  // The weights of a thread's layers must stay in its own cache.
  const int layers_each = (call.layers + threads - 1) / threads;
  const double weights = multiply_adds(*call.kind.facts, above);
  if (!stay_private(machine(), layers_each * weights * static_cast<double>(call.kind.storage_bytes))) return 0;
  const auto least = static_cast<int64_t>(kTask / (weights * static_cast<double>(above.batch))) + 1;
  const int64_t steps = std::max(least, above.seq_len / (kRanges * sides));
  if (2 * steps > above.seq_len) return 0;
  const int64_t range_count = (above.seq_len + steps - 1) / steps;
  const auto ranges = static_cast<double>(range_count);
  const double waiting = (ranges + sides - 1) / ranges, meetings = ranges * call.layers / sides * machine().meeting;
  const double wave = time_of(call, {1, 1}, 1) / sides * waiting + meetings + start_of(sides);
  return wave < kGain * in_turn ? steps : 0;
}

Shares asked_shares(const CallSize& call, int threads) {
  const int wanted = asked(), kind = wanted % kKinds, grid = wanted / kKinds;
  const int sides = call.directions == 2 && threads % 2 == 0 ? 2 : 1, each = threads / sides;
  if (kind == kWave && call.can_wave && call.layers > 1 && threads > 1 && call.lowest.seq_len > 1) {
    return {{1, 1}, 1, std::min(threads, call.layers), call.lowest.seq_len < 8 ? 1 : 3};
  }
  const int64_t rows = kind == kRows ? each : kind == kGrid ? std::min(each, grid / kParts) : 1;
  const int64_t units = kind == kUnits ? each : kind == kGrid ? std::min<int64_t>(each / rows, grid % kParts) : 1;
  const Schedule s{static_cast<int>(parts_of(rows, call.lowest.batch)),
                   static_cast<int>(parts_of(units, tiles_of(call)))};
  return {s, call.backward ? each : s.workers(), sides, 0};
}

Shares cheapest_shares(const CallSize& call, int threads) {
  const Choice all = cheapest(call, threads, call.directions);
  Shares shares{all.schedule, all.workers, 1, 0};
  const double time = call.directions * all.time + start_of(all.workers);
  if (all.workers == 1 && time < machine().start) return shares;
  if (call.directions == 2 && threads % 2 == 0) {
    const Choice half = cheapest(call, threads / 2, 1);
    if (half.time + start_of(2 * half.workers) < time) shares = {half.schedule, half.workers, 2, 0};
  }
  if (call.directions == 1) {
    if (const int64_t steps = wave_steps(call, threads, time)) {
      shares = {{1, 1}, 1, std::min(threads, call.layers), steps};
    }
  }
  return shares;
}

// A length that stands for lengths up to a quarter longer, so that sequences of all lengths have few choices.
int64_t rounded(int64_t seq_len) {
  int64_t unit = 1;
  while (seq_len / unit >= 8) unit *= 2;
  return seq_len / unit * unit;
}

// The last choices of a thread, as calls of the same sizes come again.
using Key = std::array<int64_t, 19>;
Key key_of(const CallSize& call, int threads) {
  const auto address = [](const void* p) { return static_cast<int64_t>(reinterpret_cast<std::intptr_t>(p)); };
  const LayerSize &low = call.lowest, &high = call.above;
  return {address(&machine()),
          address(call.kind.facts),
          address(call.kind.shapes),
          call.kind.storage_bytes,
          call.kind.compute_bytes,
          low.seq_len,
          low.batch,
          low.input,
          low.hidden,
          low.proj,
          low.heads,
          high.input,
          high.hidden,
          high.proj,
          call.layers,
          call.directions,
          call.can_wave,
          call.backward,
          threads};
}

}  // namespace

double cost_of(const CallSize& call, const Schedule& s, int workers) {
  return call.directions * time_of(call, s, workers) + start_of(std::max(workers, s.workers()));
}

Shares share_out(const CallSize& call, int threads) {
  if (is_schedule_asked()) return asked_shares(call, threads);
  if (threads <= 1) return {{1, 1}, 1, 1, 0};
  struct Entry {
    Key key;
    Shares shares;
  };
  constexpr unsigned kLogEntries = 4;
  static thread_local Entry entries[1u << kLogEntries];
  static thread_local unsigned last = 0;
  CallSize like = call;
  like.lowest.seq_len = like.above.seq_len = rounded(call.lowest.seq_len);
  const Key key = key_of(like, threads);
  if (entries[last].key == key) return entries[last].shares;
  std::uint64_t hash = 0;
  for (const int64_t part : key) hash = (hash ^ static_cast<std::uint64_t>(part)) * 0x9E3779B97F4A7C15u;
  last = static_cast<unsigned>(hash >> (64 - kLogEntries));
  if (entries[last].key != key) entries[last] = {key, cheapest_shares(like, threads)};
  return entries[last].shares;
}

}  // namespace fusedrnn
