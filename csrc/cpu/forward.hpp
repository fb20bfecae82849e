// Forward over a whole sequence, for any cell: the time loop of one worker.
#pragma once

#include "driver.hpp"

namespace {

// Where one active row finds its operands at one time step; pointers are to unit 0.
template <class T>
struct ForwardRow {
  const T* h_prev;
  const T* c_prev;
  T* c;
  T* y;
  T* slots;
  const T* pre;  // [tile of this worker][row of this chunk][gate][lane]
};

// The `at` of cell.hpp.
template <class Cell, class T, bool kTrain>
struct ForwardAt {
  using V = Vec<T>;
  const ForwardRow<T>& row;
  int64_t unit, hidden;
  const T* pre_tile;
  typename V::Lanes lanes;

  RNN_INLINE V load(const T* p) const { return V::load(p + unit, lanes); }
  RNN_INLINE V h_prev() const { return load(row.h_prev); }
  RNN_INLINE V c_prev() const { return load(row.c_prev); }
  RNN_INLINE V pre(int gate) const { return V::load(pre_tile + gate * V::width); }
  RNN_INLINE V slot(int k) const { return load(row.slots + k * hidden); }
  RNN_INLINE void save(int k, V v) const {
    if (kTrain || Cell::carried(k)) v.store(row.slots + k * hidden + unit, lanes);
  }
  RNN_INLINE void set_c(V v) const { v.store(row.c + unit, lanes); }
  RNN_INLINE void set_h(V v) const { v.store(row.y + unit, lanes); }
};

// pre = bias + W x.
template <class T, int Gates>
struct ProjectOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr int kGates = Gates;
  static constexpr bool kColumns = false;
  static constexpr bool kPointwise = false, kCold = false;
  const T* weights;
  int64_t tile_stride, depth;
  const T* const* x;
  const T* bias;
  T* pre;  // [tile of this worker][row][gate][lane]
  int64_t pre_stride, tile0;

  RNN_INLINE const T* column(int64_t) const { return nullptr; }
  RNN_INLINE const T* source(int64_t row) const { return x[row]; }
  RNN_INLINE void fetch_init(const Area&) const {}
  RNN_INLINE void fetch_end(const Area&) const {}
  RNN_INLINE V init(int64_t, int64_t tile, int gate) const { return V::load(bias + (tile * kGates + gate) * V::width); }
  RNN_INLINE void finish(int64_t row, int64_t tile, const V* a) const {
    T* const to = pre + (tile - tile0) * pre_stride + row * kGates * V::width;
    for (int g = 0; g < kGates; ++g) a[g].store(to + g * V::width);
  }
};

// The recurrent product of one phase, and the cell's pointwise step on its sums.
template <class Cell, class T, int Phase, bool kTrain>
struct PhaseOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr int kFirst = Cell::phase_gates(Phase).first;
  static constexpr int kGates = Cell::phase_gates(Phase).count;
  static constexpr int kSource = Cell::phase_source(Phase);
  static constexpr bool kColumns = false;
  static constexpr bool kPointwise = true, kCold = false;
  const T* weights;
  int64_t tile_stride, depth;
  const ForwardRow<T>* rows;
  const T* bias;  // of gates that are split
  int64_t pre_stride, tile0;

  RNN_INLINE const T* column(int64_t) const { return nullptr; }
  RNN_INLINE const T* source(int64_t row) const {
    return kSource == kFromState ? rows[row].h_prev : rows[row].slots + kSource * depth;
  }
  RNN_INLINE const T* pre_at(int64_t row, int64_t tile) const { return rows[row].pre + (tile - tile0) * pre_stride; }
  RNN_INLINE V init(int64_t row, int64_t tile, int gate) const {
    if (Cell::split(kFirst + gate)) return V::load(bias + (tile * Cell::kGates + kFirst + gate) * V::width);
    return V::load(pre_at(row, tile) + (kFirst + gate) * V::width);
  }
  RNN_INLINE void fetch_init(const Area& area) const {
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        const T* const pre = pre_at(r, tile) + kFirst * V::width;
        for (int gate = 0; gate < kGates; ++gate) __builtin_prefetch(pre + gate * V::width);
      }
    }
  }
  RNN_INLINE void fetch_end(const Area& area) const {
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        const ForwardRow<T>& row = rows[r];
        prefetch_write(row.y + tile * V::width);
        if (Cell::kStates > 1) __builtin_prefetch(row.c_prev + tile * V::width);
      }
    }
  }
  void pointwise(Span span, Span tiles, const V* sums) const {
    for (int64_t row = span.first; row < span.last; ++row) {
      for (int64_t tile = tiles.first; tile < tiles.last; ++tile, sums += kGates) {
        Cell::template forward<Phase>(sums, ForwardAt<Cell, T, kTrain>{rows[row], tile * V::width, depth,
                                                                       pre_at(row, tile), lanes_of<V>(tile, depth)});
      }
    }
  }
};

template <class Cell, class T, bool kTrain>
struct Forward {
  using V = Vec<T>;
  // The projection of a chunk of steps waits in cache until the recurrence takes it: half of a private L2.
  static constexpr int64_t kChunkBytes = 512 * 1024;

  const Problem<T>& p;
  const Worker& w;
  const int64_t row_count = w.row1 - w.row0;
  const int64_t chunk = chunk_steps(p, row_count, w.tile1 - w.tile0);
  // A tile's part of the chunk lies together: rows a power of two apart would push each other out of L1.
  const int64_t pre_stride = chunk * row_count * Cell::kGates * V::width;
  const T* const zeros = reinterpret_cast<const T*>(w.shared);
  T* pre = nullptr;
  const T** x = nullptr;
  ForwardRow<T>* rows = nullptr;

  static int64_t chunk_steps(const Problem<T>& p, int64_t rows, int64_t tiles) {
    const int64_t step_bytes = rows * tiles * Cell::kGates * V::width * static_cast<int64_t>(sizeof(T));
    const int64_t steps = step_bytes > 0 ? kChunkBytes / step_bytes : 1;
    return steps < 1 ? 1 : steps < p.seq_len ? steps : p.seq_len;
  }

  // Scratch shared by all workers: a row of zeros; in inference, a set of slots per batch row if a later phase reads
  // any.
  static constexpr bool kScratchSlots = !kTrain && Cell::kPhases > 1;
  static T* shared_slots(const Problem<T>& p, Arena& arena) {
    arena.take<T>(p.hidden);
    return kScratchSlots ? arena.take<T>(p.batch * Cell::kSlots * p.hidden) : nullptr;
  }
  void layout(Arena& arena) {
    pre = arena.take<T>((w.tile1 - w.tile0) * pre_stride);
    x = arena.take<const T*>(chunk * row_count);
    rows = arena.take<ForwardRow<T>>(row_count);
  }
  static std::size_t local_bytes(const Problem<T>& p, int64_t rows, int64_t tiles) {
    const Worker w{0, 1, 0, rows, 0, tiles, nullptr, nullptr, nullptr, nullptr};
    Arena arena{nullptr};
    Forward{p, w}.layout(arena);
    return arena.used;
  }
  static std::size_t shared_bytes(const Problem<T>& p) {
    Arena arena{nullptr};
    shared_slots(p, arena);
    return arena.used;
  }

  // pre of all active rows of steps [first, last), in the order in which `gather_rows` finds them.
  void project(int64_t first, int64_t last) {
    int64_t n = 0;
    for (int64_t step = first; step < last; ++step) {
      const int64_t t = time_of(p, step);
      for (int64_t row = w.row0; row < w.row1; ++row) {
        if (t < length_of(p, row)) x[n++] = p.x + (t * p.batch + row) * p.input;
      }
    }
    const ProjectOp<T, Cell::kGates> op{
        p.weights.ih, p.input * Cell::kGates * V::width, p.input, x, p.weights.bias_pre, pre, pre_stride, w.tile0};
    sweep(op, {0, n}, {w.tile0, w.tile1});
  }

  // The rows that are active at time t; their number.
  int64_t gather_rows(int64_t t, [[maybe_unused]] T* scratch_slots, const T* pre_rows) {
    const int64_t H = p.hidden, before = time_before(p, t);
    int64_t n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t >= length_of(p, row)) {
        const Span units = units_of<V>(p, w);
        std::memset(p.y + (t * p.batch + row) * H + units.first, 0,
                    static_cast<std::size_t>(units.last - units.first) * sizeof(T));
        continue;
      }
      const bool first = is_first(p, t, row);
      const int64_t here = t * p.batch + row, prev = before * p.batch + row;
      ForwardRow<T>& r = rows[n];
      r.h_prev = first ? initial_state(p, 0, row, zeros) : p.y + prev * H;
      r.y = p.y + here * H;
      if constexpr (kTrain) r.slots = p.slots + here * Cell::kSlots * H;
      if constexpr (kScratchSlots) r.slots = scratch_slots + row * Cell::kSlots * H;
      r.pre = pre_rows + n * Cell::kGates * V::width;
      if constexpr (Cell::kStates > 1) {
        r.c = kTrain ? r.slots + Cell::kStateSlot * H : p.state_n[1] + row * H;
        if (!kTrain)
          r.c_prev = r.c;
        else if (first)
          r.c_prev = initial_state(p, 1, row, zeros);
        else
          r.c_prev = p.slots + (prev * Cell::kSlots + Cell::kStateSlot) * H;
      }
      ++n;
    }
    return n;
  }

  template <int Phase>
  void run_phases(int64_t n, bool backwards) {
    if constexpr (Phase < Cell::kPhases) {
      const int64_t H = p.hidden;
      const PhaseOp<Cell, T, Phase, kTrain> op{p.weights.hh[Phase],
                                               H * Cell::phase_gates(Phase).count * V::width,
                                               H,
                                               rows,
                                               p.weights.bias_rec,
                                               pre_stride,
                                               w.tile0};
      sweep(op, {0, n}, {w.tile0, w.tile1}, backwards);
      meet(w.step_barrier);
      run_phases<Phase + 1>(n, backwards);
    }
  }

  void last_states() {
    const int64_t H = p.hidden;
    const Span units = units_of<V>(p, w);
    const std::size_t bytes = static_cast<std::size_t>(units.last - units.first) * sizeof(T);
    for (int64_t row = w.row0; row < w.row1; ++row) {
      const int64_t length = length_of(p, row);
      const int64_t last = ((p.reverse ? 0 : length - 1) * p.batch + row) * H;
      const T* h = length > 0 ? p.y + last : initial_state(p, 0, row, zeros);
      if (p.state_n[0]) std::memcpy(p.state_n[0] + row * H + units.first, h + units.first, bytes);
      if constexpr (kTrain && Cell::kStates > 1) {
        const T* c =
            length > 0 ? p.slots + last * Cell::kSlots + Cell::kStateSlot * H : initial_state(p, 1, row, zeros);
        std::memcpy(p.state_n[1] + row * H + units.first, c + units.first, bytes);
      }
    }
  }

  void run() {
    Arena arena{w.local}, shared{w.shared};
    layout(arena);
    T* scratch_slots = shared_slots(p, shared);
    if (!kTrain && Cell::kStates > 1) copy_or_zero(p.state_n[1], p.state0[1], p.hidden, w, units_of<V>(p, w));
    for (int64_t first = 0; first < p.seq_len; first += chunk) {
      const int64_t last = first + chunk < p.seq_len ? first + chunk : p.seq_len;
      project(first, last);
      const T* pre_rows = pre;
      for (int64_t step = first; step < last; ++step) {
        const int64_t n = gather_rows(time_of(p, step), scratch_slots, pre_rows);
        run_phases<0>(n, step % 2 != 0);
        pre_rows += n * Cell::kGates * V::width;
      }
    }
    last_states();
  }

  static void entry(const Problem<T>& p, const Worker& w) { Forward{p, w}.run(); }
};

}  // namespace
