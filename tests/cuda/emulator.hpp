// A GPU for tests: what csrc/cuda/device.hpp gives on CUDA, on one CPU thread. Every GPU thread is a fiber; fibers run
// in shuffled order, and warps sleep now and then, so that a missing barrier shows. Compiled together with kernels.cu.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "../../csrc/cells/math.hpp"

// Loops stay loops, and functions are called: all that would be put in place takes minutes to compile, and this is no
// place for speed.
#undef RNN_UNROLL
#define RNN_UNROLL
#undef RNN_INLINE
#define RNN_INLINE inline

#define RNN_DEVICE inline
#define RNN_CALLED __attribute__((noinline))
#define RNN_KERNEL static void
#define RNN_CONSTANT_ARGUMENT

namespace emulator {

constexpr std::size_t kStackBytes = 64 * 1024;

// A meeting of so many fibers; all go on once the last has come.
struct Meeting {
  int expected, arrived = 0;
  unsigned generation = 0;
};

struct alignas(16) Words {
  unsigned w[4];
};

struct Warp {
  Meeting meeting{32};
  float c[32][4];
  unsigned a[32][4], b[32][2];
  int votes = 0, result = 0;
  Meeting pairs[16] = {{2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}};
  unsigned given[32];
  int sleeps = 0;  // rounds for which it does not run
};

struct ThreadBlock {
  Meeting meeting;
  std::vector<Warp> warps;
  std::unique_ptr<Words[]> shared;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  int thread, block;
  bool done = false;
  const unsigned* waits_for = nullptr;  // to change from
  unsigned generation = 0;              // this
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<ThreadBlock> blocks;
  int threads = 0;
  Fiber* current = nullptr;
  ucontext_t scheduler;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_bytes = 0;
  std::function<void()> kernel;
  bool trapped = false;
};

inline Machine* machine = nullptr;
inline std::mt19937 shuffler(1);

// One warp in eight falls asleep in a round, for up to eight rounds.
inline void send_to_sleep(Machine& m) {
  for (ThreadBlock& block : m.blocks) {
    for (Warp& warp : block.warps) {
      if (warp.sleeps > 0)
        --warp.sleeps;
      else if (shuffler() % 8 == 0)
        warp.sleeps = static_cast<int>(shuffler() % 8);
    }
  }
}

// Goes on with another stack; an address sanitizer is told. `ends` if nobody will come back.
inline void change(ucontext_t& from, ucontext_t& to, [[maybe_unused]] const void* stack,
                   [[maybe_unused]] std::size_t bytes, [[maybe_unused]] bool ends = false) {
#if defined(__SANITIZE_ADDRESS__)
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(ends ? nullptr : &mine, stack, bytes);
  swapcontext(&from, &to);
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#else
  swapcontext(&from, &to);
#endif
}

inline void yield() {
  Fiber& me = *machine->current;
  change(me.context, machine->scheduler, machine->scheduler_stack, machine->scheduler_bytes, me.done);
}

// True for the fiber that came last, which has not waited.
inline void meet(Meeting& meeting, const std::function<void()>& last = [] {}) {
  if (++meeting.arrived == meeting.expected) {
    last();
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  Fiber& me = *machine->current;
  me.waits_for = &meeting.generation;
  me.generation = meeting.generation;
  yield();
  me.waits_for = nullptr;
}

inline void start_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine->scheduler_stack, &machine->scheduler_bytes);
#endif
  machine->kernel();
  machine->current->done = true;
  yield();
}

// How a launch ends.
enum class End { done, stuck, trapped };

// Runs a launch to its end, which also comes if nothing moves any more.
inline End run(int blocks, int threads, std::size_t shared_bytes, std::function<void()> kernel) {
  Machine m;
  machine = &m;
  m.threads = threads;
  m.kernel = std::move(kernel);
  m.blocks.resize(static_cast<std::size_t>(blocks));
  for (ThreadBlock& block : m.blocks) {
    block.meeting.expected = threads;
    block.warps.resize(static_cast<std::size_t>(threads / 32));
    block.shared.reset(new Words[shared_bytes / sizeof(Words) + 1]);
    std::memset(static_cast<void*>(block.shared.get()), 0xff, shared_bytes);  // NaN, if it is read before it is written
  }
  m.fibers.resize(static_cast<std::size_t>(blocks * threads));
  std::vector<Fiber*> order;
  for (std::size_t i = 0; i < m.fibers.size(); ++i) {
    Fiber& fiber = m.fibers[i];
    fiber.thread = static_cast<int>(i) % threads;
    fiber.block = static_cast<int>(i) / threads;
    fiber.stack.reset(new char[kStackBytes]);
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, kStackBytes};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start_fiber, 0);
    order.push_back(&fiber);
  }
  std::shuffle(order.begin(), order.end(), shuffler);
  int idle_rounds = 0;
  while (!order.empty() && idle_rounds < 100 && !m.trapped) {
    // A fiber that spins on a counter of the grid moves nothing; one that meets, or ends, does.
    send_to_sleep(m);
    bool moved = false;
    for (Fiber* fiber : order) {
      const ThreadBlock& block = m.blocks[static_cast<std::size_t>(fiber->block)];
      if (block.warps[static_cast<std::size_t>(fiber->thread / 32)].sleeps > 0) continue;
      if (fiber->waits_for && *fiber->waits_for == fiber->generation) continue;
      const bool spun = fiber->waits_for == nullptr;
      m.current = fiber;
      change(m.scheduler, fiber->context, fiber->stack.get(), kStackBytes);
      moved = moved || fiber->done || fiber->waits_for || !spun;
    }
    order.erase(std::remove_if(order.begin(), order.end(), [](Fiber* f) { return f->done; }), order.end());
    idle_rounds = moved ? 0 : idle_rounds + 1;
  }
  machine = nullptr;
  return m.trapped ? End::trapped : order.empty() ? End::done : End::stuck;
}

}  // namespace emulator

namespace {

using emulator::Words;
using std::copysign;
using std::fabs;

struct bfloat16 {
  std::uint16_t bits;
};
using float16 = _Float16;

int thread_index() { return emulator::machine->current->thread; }
int thread_count() { return emulator::machine->threads; }
int thread_block_index() { return emulator::machine->current->block; }
int thread_block_count() { return static_cast<int>(emulator::machine->blocks.size()); }
emulator::ThreadBlock& this_thread_block() {
  return emulator::machine->blocks[static_cast<std::size_t>(thread_block_index())];
}
emulator::Warp& this_warp() { return this_thread_block().warps[static_cast<std::size_t>(thread_index() / 32)]; }
char* shared_memory() { return reinterpret_cast<char*>(this_thread_block().shared.get()); }
void meet_thread_block() { emulator::meet(this_thread_block().meeting); }
void meet_warp() { emulator::meet(this_warp().meeting); }
void trap() {
  emulator::machine->trapped = true;
  while (true) emulator::yield();
}
bool any_lane(bool mine) {
  emulator::Warp& warp = this_warp();
  warp.votes += mine;
  emulator::meet(warp.meeting, [&] {
    warp.result = warp.votes;
    warp.votes = 0;
  });
  const bool result = warp.result > 0;
  emulator::meet(warp.meeting);  // all have read
  return result;
}

Words load_fresh(const void* p) { return *static_cast<const Words*>(p); }
void store_fresh(void* p, unsigned word) { std::memcpy(p, &word, sizeof word); }
void fence() {}
void pause() { emulator::yield(); }
unsigned of_neighbour(unsigned mine) {
  emulator::Warp& warp = this_warp();
  const int lane = thread_index() % 32;
  emulator::Meeting& pair = warp.pairs[lane / 2];
  warp.given[lane] = mine;
  emulator::meet(pair);
  const unsigned theirs = warp.given[lane ^ 1];
  emulator::meet(pair);  // both have read
  return theirs;
}
unsigned larger(unsigned a, unsigned b) { return a > b ? a : b; }
Words load_constant(const void* p) { return *static_cast<const Words*>(p); }
void store_pair(float* to, float a, float b) { to[0] = a, to[1] = b; }
void stamp(int) {}
Words load_shared(const void* p) { return *static_cast<const Words*>(p); }
template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
float as_float(unsigned bits) { return bits_as<float>(bits); }
unsigned bits_of(float v) { return bits_as<unsigned>(v); }
unsigned bits_of(bfloat16 v) { return v.bits; }
unsigned bits_of(float16 v) { return bits_as<std::uint16_t>(v); }
float quotient(float a, float b) { return a / b; }
float fused(float a, float b, float c) { return std::fma(a, b, c); }
float widen(float v) { return v; }
float widen(bfloat16 v) { return as_float(static_cast<unsigned>(v.bits) << 16); }
float widen(float16 v) { return static_cast<float>(v); }
void narrow(float v, float& to) { to = v; }
void narrow(float v, bfloat16& to) {
  const auto bits = bits_as<unsigned>(v);
  to.bits = v != v ? 0x7fff : static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
void narrow(float v, float16& to) { to = v != v ? bits_as<float16>(std::uint16_t{0x7fff}) : static_cast<float16>(v); }
float round_tf32(float v) { return v != v ? v : as_float((bits_as<unsigned>(v) + 0x1000) & ~0x1fffu); }

// The k-th element of a row that lies in four registers of four lanes, as the instruction takes it.
struct tf32;
template <class Operand>
struct Piece;
template <>
struct Piece<tf32> {
  static constexpr int kEach = 1;
  static float at(unsigned word, int) { return as_float(word & ~0x1fffu); }
};
template <>
struct Piece<bfloat16> {
  static constexpr int kEach = 2;
  static float at(unsigned word, int i) { return widen(bfloat16{static_cast<std::uint16_t>(word >> (16 * i))}); }
};
template <>
struct Piece<float16> {
  static constexpr int kEach = 2;
  static float at(unsigned word, int i) {
    return widen(bits_as<float16>(static_cast<std::uint16_t>(word >> (16 * i))));
  }
};

template <class Operand>
struct TensorCore {
  // Row r of the first matrix has its elements in the lanes 4*(r % 8) + q: register r / 8 for the first half of K, and
  // 2 + r / 8 for the second; column n of the second matrix in the lanes 4*n + q.
  static void compute(emulator::Warp& warp) {
    using P = Piece<Operand>;
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = warp.c[lane][i];
        for (int half = 0; half < 2; ++half) {
          for (int q = 0; q < 4; ++q) {
            for (int k = 0; k < P::kEach; ++k) {
              sum += P::at(warp.a[row % 8 * 4 + q][2 * half + row / 8], k) * P::at(warp.b[column * 4 + q][half], k);
            }
          }
        }
        warp.c[lane][i] = sum;
      }
    }
  }

  static void multiply(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    emulator::Warp& warp = this_warp();
    const int lane = thread_index() % 32;
    const unsigned a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    std::memcpy(warp.a[lane], a, sizeof a);
    std::memcpy(warp.b[lane], b, sizeof b);
    std::memcpy(warp.c[lane], c, sizeof warp.c[lane]);
    emulator::meet(warp.meeting, [&] { compute(warp); });
    std::memcpy(c, warp.c[lane], sizeof warp.c[lane]);
    // No lane can overwrite another's before that has read: each writes its own place alone, and computes after all
    // came.
  }
};

}  // namespace
