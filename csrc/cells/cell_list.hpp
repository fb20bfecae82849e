// Every cell: its name in the bindings and its type. A new cell is its header, a line here, an include in cells.hpp, a
// reference function and its cases in the tests.
#pragma once

// clang-format off
#define RNN_LSTM_VARIANTS(X, suffix, options)                                      \
  X(lstm##suffix, Lstm<(options)>)                                                 \
  X(lstm_no_input_gate##suffix, Lstm<(options) | kNoInputGate>)                    \
  X(lstm_no_forget_gate##suffix, Lstm<(options) | kNoForgetGate>)                  \
  X(lstm_no_output_gate##suffix, Lstm<(options) | kNoOutputGate>)                  \
  X(lstm_no_input_activation##suffix, Lstm<(options) | kNoInputActivation>)        \
  X(lstm_no_output_activation##suffix, Lstm<(options) | kNoOutputActivation>)      \
  X(lstm_coupled##suffix, Lstm<(options) | kCoupled>)

#define RNN_CELLS(X)                                                               \
  X(rnn_tanh, RnnTanh)                                                             \
  X(rnn_relu, RnnRelu)                                                             \
  X(indrnn_tanh, IndRnn<RnnTanh>)                                                  \
  X(indrnn_relu, IndRnn<RnnRelu>)                                                  \
  X(clockwork_rnn_tanh, Clockwork<RnnTanh>)                                        \
  X(clockwork_rnn_relu, Clockwork<RnnRelu>)                                        \
  RNN_LSTM_VARIANTS(X, , 0)                                                        \
  RNN_LSTM_VARIANTS(X, _peephole, kPeepholes)                                      \
  X(lstm_projected, Lstm<kProjected>)                                              \
  X(lstm_matrix_peephole, LstmMatrixPeepholesIFO)                                  \
  X(lstm_matrix_peephole_if, LstmMatrixPeepholesIF)                                \
  X(lstm_matrix_peephole_o, LstmMatrixPeepholesO)                                  \
  X(fgr_lstm, LstmGateRecurrence)                                                  \
  X(depth_gated_lstm, DepthGatedLstm)                                              \
  X(slstm, SLstm<false>)                                                           \
  X(slstm_exp, SLstm<true>)                                                        \
  X(layer_norm_lstm, LayerNormLstm)                                                \
  X(layer_norm_gru, LayerNormGru)                                                  \
  X(gru_reset_after, GruResetAfter<false>)                                         \
  X(gru_reset_before, GruResetBefore<false>)                                       \
  X(gru_reset_after_z_new, GruResetAfter<true>)                                    \
  X(gru_reset_before_z_new, GruResetBefore<true>)
// clang-format on
