// Runs a problem: chooses the schedule, finds scratch memory and threads, starts the workers.
#pragma once

#include "problem.hpp"
#include "weights.hpp"

namespace fusedrnn {

// Forward; training if p.slots is set. p.weights is filled in here. Throws std::bad_alloc before anything is written.
template <class T>
void run_forward(const Weights<T>& weights, Problem<T> p);

// Backward; consumes p.slots.
template <class T>
void run_backward(const Weights<T>& weights, Problem<T> p, const Gradients<T>& g);

}  // namespace fusedrnn
