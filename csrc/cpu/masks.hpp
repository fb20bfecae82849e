// Masks of regularisation in the drivers: dropout of rows, and the masks of a step's rows, of the units of one worker.
#pragma once

#include "driver.hpp"

namespace {

using fusedrnn::kRowsTogether;
using fusedrnn::Mask;

// to[unit] = from[unit] times its factor, or 0 where that is 0; `to` may be `from`. With `add`, it is added to.
template <class C>
void drop_units(const C* from, const C* factors, C* to, int64_t units, bool add = false) {
  using V = Vec<C>;
  for (int64_t tile = 0; tile < tiles_of<V>(units); ++tile) {
    const auto lanes = lanes_of<V>(tile, units);
    const int64_t unit = tile * V::width;
    const V dropped = left_by(V::load(factors + unit, lanes), V::load(from + unit, lanes));
    (add ? V::load(to + unit, lanes) + dropped : dropped).store(to + unit, lanes);
  }
}

// What pointwise steps do beside their cell.
struct ActiveMasks {
  bool zoneout_h = false, zoneout_c = false;  // in inference too
  bool candidate = false, recurrent = false;  // in training alone

  ActiveMasks() = default;
  template <class C>
  explicit ActiveMasks(const Problem<C>& p)
      : zoneout_h(p.drop.has(fusedrnn::kZoneoutH)),
        zoneout_c(p.drop.has(fusedrnn::kZoneoutC)),
        candidate(p.slots && p.drop.has(fusedrnn::kCandidateDropout)),
        recurrent(p.drop.recurrent != nullptr) {}
};

// Where a row finds its masks; pointers are to unit 0.
template <class C>
struct MaskRow {
  const C *keep_h = nullptr, *keep_c = nullptr;        // 1 where the old value stays, else 0
  const C *candidate = nullptr, *recurrent = nullptr;  // factors

  // Points to the unit that comes so many after this one.
  void move(int64_t units) {
    for (const C** at : {&keep_h, &keep_c, &candidate, &recurrent}) {
      if (*at) *at += units;
    }
  }
};

// The masks of the rows of one step, in training: [row][unit of the worker].
template <class C>
struct StepMasks {
  const Problem<C>& p;
  const Worker& worker;
  ActiveMasks active;
  Span h_units, units;
  C *keep_h = nullptr, *keep_c = nullptr, *candidate = nullptr;

  StepMasks(const Problem<C>& problem, const Worker& mine)
      : p(problem),
        worker(mine),
        active(problem.slots ? ActiveMasks(problem) : ActiveMasks()),
        h_units(h_units_of<Vec<C>>(problem, mine)),
        units(units_of<Vec<C>>(problem, mine)) {}

  void layout(Arena& arena) {
    const int64_t rows = worker.row1 - worker.row0;
    keep_h = arena.take<C>(active.zoneout_h ? rows * h_units.size() : 0);
    keep_c = arena.take<C>(active.zoneout_c ? rows * units.size() : 0);
    candidate = arena.take<C>(active.candidate ? rows * units.size() : 0);
  }

  const C* read(Mask mask, C* to, Span some, int64_t all, C dropped, C kept, int64_t n, int64_t t, int64_t row) const {
    if (some.size() <= 0) return nullptr;
    C* const mine = to + n * some.size();
    fusedrnn::read_mask(p.drop.options, p.drop.source, mask, t, row, p.batch, all, some.first, some.last, dropped, kept,
                        mine);
    return mine - some.first;
  }

  // Those of the n-th row of the step, which is this row at time t.
  void find(MaskRow<C>& of_row, int64_t n, int64_t t, int64_t row) const {
    using namespace fusedrnn;
    if (active.zoneout_h) of_row.keep_h = read(kZoneoutH, keep_h, h_units, p.proj, C(1), C(0), n, t, row);
    if (active.zoneout_c) of_row.keep_c = read(kZoneoutC, keep_c, units, p.hidden, C(1), C(0), n, t, row);
    if (active.candidate) {
      const C scale = static_cast<C>(p.drop.options.scale(kCandidateDropout));
      of_row.candidate = read(kCandidateDropout, candidate, units, p.hidden, C(0), scale, n, t, row);
    }
    if (active.recurrent) of_row.recurrent = p.drop.recurrent + row * p.proj;
  }
};

}  // namespace
