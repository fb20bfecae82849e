// Runs a problem: chooses the schedule, finds scratch memory and threads, starts the workers.
#pragma once

#include <string>

#include "problem.hpp"
#include "weights.hpp"

namespace fusedrnn {

// "auto" chooses by size; "one", "rows" and "units" (run.cpp) are for tests, which hold that all give the same bits.
// Throws std::invalid_argument for any other name.
void set_schedule(const std::string& name);

// Forward; training if p.slots is set. p.weights is filled in here. Throws std::bad_alloc before anything is written.
template <class T>
void run_forward(const Weights<T>& weights, Problem<T> p);

// Backward; consumes p.slots.
template <class T>
void run_backward(const Weights<T>& weights, Problem<T> p, const Gradients<T>& g);

}  // namespace fusedrnn
