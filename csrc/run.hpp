// Runs a problem: chooses the schedule, finds scratch memory and threads, starts the workers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "problem.hpp"
#include "weights.hpp"

namespace fusedrnn {

// "auto" chooses by size; "one", "rows" and "units" (run.cpp) are for tests, which hold that all give the same bits.
// Throws std::invalid_argument for any other name.
void set_schedule(const std::string& name);

// How forward of a problem of this size is shared out now, if all threads are free: among how many parts of the rows,
// and of the units.
template <class F>
std::pair<int, int> forward_schedule(const Weights<F>& weights, std::int64_t seq_len, std::int64_t batch);

// Forward; training if p.slots is set. p.cell is filled in here. Throws only before anything is written:
// std::bad_alloc, or std::invalid_argument for environment variables that make no sense.
template <class F>
void run_forward(const Weights<F>& weights, Problem<typename F::Compute> p);

// Backward; consumes p.slots. Throws only before anything is written.
template <class F>
void run_backward(const Weights<F>& weights, Problem<typename F::Compute> p, const Gradients<typename F::Compute>& g);

}  // namespace fusedrnn
