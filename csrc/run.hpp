// Runs problems: chooses the schedule, finds scratch memory and threads, starts the workers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dropout.hpp"
#include "schedule.hpp"
#include "weights.hpp"

namespace fusedrnn {

// "auto" takes what the cost model finds cheapest. The others are for tests, which hold that all give the same bits,
// and for measurements: "one" thread for the recurrence; "rows", where each thread has its own rows; "units", where all
// have all rows and some units; "2x3", both: two parts of the rows, each with three of the units; and "wave", of
// layers. Throws std::invalid_argument for any other name.
void set_schedule(const std::string& name);

// Whether calls read weights that are not packed where they lie: "auto" decides by size; "never" and "always" are for
// tests and measurements. All give the same bits. Throws std::invalid_argument for any other name.
void set_in_place(const std::string& name);

// How a problem of this size is shared out among this many threads; 0: as it is now, if all threads are free.
template <class F>
Shares shares_of(const Weights<F>& weights, std::int64_t seq_len, std::int64_t batch, int threads, bool backward);

// How long it takes under a schedule, or backward with so many workers, by the cost model: nanoseconds.
template <class F>
double cost_of(const Weights<F>& weights, std::int64_t seq_len, std::int64_t batch, const Schedule& s, int workers,
               bool backward);

constexpr int kMaxDirections = 2;

// One direction of one layer. Sizes and the cell are filled in from the weights, but for seq_len and batch. Weights are
// packed already; or, where `weights` is null, the call reads or packs them where they lie, at `view`.
template <class F>
struct Direction {
  using C = typename F::Compute;
  const Weights<F>* weights;
  const WeightView<C>* view;
  Problem<C> p;
  Gradients<C> g;  // of backward

  bool is_given() const { return weights || view; }
  const WeightView<C>& where() const { return weights ? weights->view() : *view; }
};

// Layers over the same steps, from the lowest to the highest, all with the same directions, of the same cell and sizes
// but for the input's. The layer above reads this one's y where it lies: the directions side by side, (T, B, D*P).
template <class F>
struct Layer {
  using C = typename F::Compute;
  Direction<F> direction[kMaxDirections];
  // Where dropout is, the layer above reads these numbers, made of y; its dx becomes this layer's dy in place.
  C* dropped;
  const std::uint8_t* dropout_mask = nullptr;  // (T, B, D*P): other than 0 where dropout drops; null: from its seed
};

template <class F>
struct Stack {
  std::vector<Layer<F>> layers;
  int directions;
  Dropout dropout;              // between layers that have `dropped`
  bool apart;                   // each layer has outputs of its own, so that layers may run at the same time
  bool add_dx = false;          // backward adds to dx of the lowest layer, which it else overwrites
  int threads = 0;              // that the call may use; 0: as many as are set for all calls
  bool from_front_end = false;  // whose threads "auto" takes (cpu/threads.hpp)
};

// Forward of all layers; training where slots are set. Throws only before anything is written: std::bad_alloc, or
// std::invalid_argument for environment variables that make no sense.
template <class F>
void run_forward(const Stack<F>& stack);

// Backward through all layers, from the highest to the lowest; it only reads the reserve. dx of a layer is dy of the
// layer below, with the directions side by side. Throws only before anything is written.
template <class F>
void run_backward(const Stack<F>& stack);

// The same for one layer in one direction.
template <class F>
void run_forward(const Weights<F>& weights, const Problem<typename F::Compute>& p) {
  run_forward(Stack<F>{{Layer<F>{{{&weights, nullptr, p, {}}, {}}, nullptr, nullptr}}, 1, {}, false});
}
template <class F>
void run_backward(const Weights<F>& weights, const Problem<typename F::Compute>& p,
                  const Gradients<typename F::Compute>& g) {
  run_backward(Stack<F>{{Layer<F>{{{&weights, nullptr, p, g}, {}}, nullptr, nullptr}}, 1, {}, false});
}

}  // namespace fusedrnn
