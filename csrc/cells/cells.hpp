// All cells' equations.
#pragma once

#include "cell_list.hpp"
#include "depth_gated_lstm.hpp"
#include "gru.hpp"
#include "layer_norm.hpp"
#include "lstm.hpp"
#include "lstm_products.hpp"
#include "rnn.hpp"
#include "slstm.hpp"
