// Every cell: its name in the bindings and its type. A new cell is its header, a line here, an include in cells.hpp, a
// reference function and its cases in the tests.
#pragma once

#define RNN_CELLS(X)                \
  X(rnn_tanh, RnnTanh)              \
  X(rnn_relu, RnnRelu)              \
  X(lstm, Lstm)                     \
  X(gru_reset_after, GruResetAfter) \
  X(gru_reset_before, GruResetBefore)
