// The reserve of one direction of one layer: what training forward leaves for backward.
#pragma once

#include "arena.hpp"
#include "problem.hpp"
#include "steps.hpp"

namespace {

// Takes the reserve's places and points the problem to them, whose sizes, lengths, offsets and options are set. A
// history of h is part of it, unless `h_is_y`: then it is y, which must stay as it is until backward.
template <class C>
void take_reserve(Arena& arena, Problem<C>& p, const fusedrnn::CellFacts& f, bool h_is_y) {
  const int64_t rows = rows_of(p);
  p.slots = arena.take<C>(rows * f.slots * p.hidden);
  p.drop.c = p.drop.has(fusedrnn::kZoneoutC) ? arena.take<C>(rows * p.hidden) : nullptr;
  p.h = h_is_y ? p.y : arena.take<C>(rows * p.proj);
  p.h_stride = h_is_y ? p.y_stride : p.proj;
}

}  // namespace
