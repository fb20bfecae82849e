// A call of a stack of layers as front ends make it: sizes, addresses, strides. From these come the problems of all
// layers and directions.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "arena.hpp"
#include "buffer.hpp"
#include "reserve.hpp"
#include "run.hpp"
#include "sizes.hpp"

namespace fusedrnn {

constexpr int kMostLayers = 1024;

// Letters as in problem.hpp; L layers, D directions. A *run* is a direction of a layer: layer 0 forward in time, layer
// 0 backward in time, layer 1, ...
struct StackShape {
  CellId cell;
  int layers, directions;
  std::int64_t input, hidden, proj, heads;

  const CellFacts& facts() const { return facts_of(cell); }
  int runs() const { return layers * directions; }
  std::int64_t width() const { return directions * proj; }  // of y
  std::int64_t input_of(int layer) const { return layer == 0 ? input : width(); }
  std::int64_t state_size(int s) const { return s == 0 ? proj : facts().state[s].units * hidden; }
  // Whether 64 bits can count the bytes of a call.
  bool fits(std::int64_t seq_len, std::int64_t batch) const {
    const auto bytes = most_call_bytes(facts(), hidden, std::max(input, width()), seq_len, batch, heads);
    return bytes && *bytes <= INT64_MAX / (4 * runs());
  }
  bool operator==(const StackShape& other) const {
    return cell == other.cell && layers == other.layers && directions == other.directions && input == other.input &&
           hidden == other.hidden && proj == other.proj && heads == other.heads;
  }
};

// The arrays of a call. They are the caller's: inputs are read, and outputs written, during the call alone; none
// overlaps an output. Elements are aligned, rows are contiguous.
template <class C>
struct CallArrays {
  std::int64_t seq_len, batch;
  const std::int64_t *lengths, *offsets, *start;  // as in problem.hpp
  const std::uint8_t* resets;                     // (T, B), as in problem.hpp, or null
  const C* x;                                     // (T, B, I)
  const C* state0[kMaxStates];                    // (L*D, B, units*H) or null
  const C* reset_state[kMaxStates];               // the same
  C* y;                                           // (T, B, D*P); backward does not use it
  std::int64_t y_stride;                          // from row to row of y, in elements
  C* state_n[kMaxStates];                         // (L*D, B, units*H)
};

template <class C>
struct GradientArrays {
  const C* dy;                    // (T, B, D*P) or null
  std::int64_t dy_stride;         // from row to row of dy
  const C* dstate_n[kMaxStates];  // (L*D, B, units*H) or null
  C* dx;                          // (T, B, I) or null
  C* dstate0[kMaxStates];         // (L*D, B, units*H) or null
  C* dreset[kMaxStates];          // the same
};

// Points the layers to the arrays of a call and to `memory`, where lie the outputs of the layers below the highest and,
// in training, the reserves and the outputs after dropout: what the call leaves for backward. Layers that are not apart
// take turns with the memory of two. Returns the bytes, which it only measures where `memory` is null.
template <class F, class C = typename F::Compute>
std::size_t place_call(const StackShape& s, Stack<F>& stack, const CallArrays<C>& call, bool train, char* memory) {
  const CellFacts& f = s.facts();
  const C* below = call.x;
  Arena arena(memory);
  std::size_t bytes = 0;
  for (int l = 0; l < s.layers; ++l) {
    Layer<F>& layer = stack.layers[static_cast<std::size_t>(l)];
    const bool highest = l + 1 == s.layers;
    if (!stack.apart && l % 2 == 0) arena.used = 0;
    for (int d = 0; d < s.directions; ++d) {
      Problem<C>& p = layer.direction[d].p;
      p.seq_len = call.seq_len;
      p.batch = call.batch;
      p.hidden = s.hidden;
      p.proj = s.proj;
      p.heads = s.heads;
      p.reverse = d > 0;
      p.lengths = call.lengths;
      p.offsets = call.offsets;
      p.start = call.start;
      p.resets = call.resets;
    }
    const std::int64_t rows = rows_of(layer.direction[0].p);
    C* const outputs = highest ? call.y : arena.take<C>(rows * s.width());
    layer.dropped = highest || stack.dropout.p == 0 ? nullptr : arena.take<C>(rows * s.width());
    for (int d = 0; d < s.directions; ++d) {
      Problem<C>& p = layer.direction[d].p;
      p.x = below;
      p.y = outputs ? outputs + d * s.proj : nullptr;
      p.y_stride = highest ? call.y_stride : s.width();
      p.c = f.below && !highest ? arena.take<C>(rows * s.hidden) : nullptr;
      p.below = f.below && l > 0 ? stack.layers[static_cast<std::size_t>(l) - 1].direction[d].p.c : nullptr;
      if (layer.direction[d].is_given()) p.drop.options = layer.direction[d].where().options;
      p.drop.source.layer = l;
      p.drop.source.direction = d;
      if (train) take_reserve(arena, p, f, !highest);
      for (int i = 0; i < f.states; ++i) {
        const std::int64_t at = (std::int64_t{l} * s.directions + d) * call.batch * s.state_size(i);
        p.state0[i] = call.state0[i] ? call.state0[i] + at : nullptr;
        p.reset_state[i] = call.reset_state[i] ? call.reset_state[i] + at : nullptr;
        p.state_n[i] = call.state_n[i] ? call.state_n[i] + at : nullptr;
      }
    }
    below = layer.dropped ? layer.dropped : outputs;
    bytes = std::max(bytes, arena.used);
  }
  return bytes;
}

// Places inference, in memory that is returned: it lives as long as the call. Large outputs of many layers are not
// kept, as calls with many rows need no layers at the same time.
template <class F, class C = typename F::Compute>
Buffer place_inference(const StackShape& s, Stack<F>& stack, const CallArrays<C>& call) {
  constexpr std::size_t kWorthSharing = 32u << 20;
  std::size_t bytes = place_call(s, stack, call, false, nullptr);
  if (bytes > kWorthSharing) {
    stack.apart = false;
    bytes = place_call(s, stack, call, false, nullptr);
  }
  if (bytes == 0) return {};
  Buffer memory(bytes);
  place_call(s, stack, call, false, memory.data());
  return memory;
}

// Points the layers of a call that has been placed to the arrays of backward, and to memory for the gradients between
// layers and of first states that are not asked for, which is returned.
template <class F, class C = typename F::Compute>
Buffer place_gradients(const StackShape& s, Stack<F>& stack, const GradientArrays<C>& call) {
  const CellFacts& f = s.facts();
  const Problem<C>& first = stack.layers[0].direction[0].p;
  const std::int64_t rows = rows_of(first);
  // Of a layer's input, which is dy of the layer below, and of c of the layer below. Two layers' memory is enough.
  struct Between {
    C* dx;
    C* dbelow[kMaxDirections];
  } between[2] = {};
  C* dstate0[kMaxStates];
  const auto take_between = [&](char* at) {
    Arena arena(at);
    for (int i = 0; i < 2 && i < s.layers - 1; ++i) {
      between[i].dx = arena.take<C>(rows * s.width());
      for (int d = 0; d < s.directions && f.below; ++d) between[i].dbelow[d] = arena.take<C>(rows * s.hidden);
    }
    for (int i = 0; i < f.states; ++i) {  // a run works on it, so that it needs a place
      dstate0[i] = call.dstate0[i] ? call.dstate0[i] : arena.take<C>(s.runs() * first.batch * s.state_size(i));
    }
    return arena.used;
  };
  Buffer memory;
  if (const std::size_t bytes = take_between(nullptr)) {
    memory = Buffer(bytes);
    take_between(memory.data());
  }
  if (s.layers == 2) between[1] = between[0];
  for (int l = s.layers - 1; l >= 0; --l) {
    const Between &mine = between[l % 2], &above = between[(l + 1) % 2];
    const bool highest = l + 1 == s.layers;
    for (int d = 0; d < s.directions; ++d) {
      Gradients<C>& g = stack.layers[static_cast<std::size_t>(l)].direction[d].g;
      const C* const dy = highest ? call.dy : above.dx;
      g.dy = dy ? dy + d * s.proj : nullptr;
      g.dy_stride = highest ? call.dy_stride : s.width();
      g.dc = highest ? nullptr : above.dbelow[d];
      g.dx = l == 0 ? call.dx : mine.dx;
      g.dbelow = l == 0 ? nullptr : mine.dbelow[d];
      for (int i = 0; i < f.states; ++i) {
        const std::int64_t at = (std::int64_t{l} * s.directions + d) * first.batch * s.state_size(i);
        g.dstate_n[i] = call.dstate_n[i] ? call.dstate_n[i] + at : nullptr;
        g.dstate0[i] = dstate0[i] + at;
        g.dreset[i] = call.dreset[i] ? call.dreset[i] + at : nullptr;
      }
    }
  }
  return memory;
}

}  // namespace fusedrnn
