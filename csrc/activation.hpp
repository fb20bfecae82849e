// Activations that a user may choose for the gates of an LSTM or GRU, in place of sigmoid and tanh.
#pragma once

namespace fusedrnn {

enum class Activation : int { own, sigmoid, tanh, hard_sigmoid, relu, softsign, linear };
constexpr const char* kActivationNames[] = {"own", "sigmoid", "tanh", "hard_sigmoid", "relu", "softsign", "linear"};

struct ChosenActivation {
  Activation kind = Activation::own;  // the one that the cell's equations have
  double alpha = 0, beta = 0;         // of hard_sigmoid: clip(alpha * x + beta, 0, 1)
};

// By their places in a cell: gates; the candidate, g or n; c on its way to h.
struct Activations {
  ChosenActivation gate, candidate, output;

  bool any() const {
    return gate.kind != Activation::own || candidate.kind != Activation::own || output.kind != Activation::own;
  }
};
constexpr const char* kActivationPlaces[] = {"gate_activation", "candidate_activation", "output_activation"};

}  // namespace fusedrnn
