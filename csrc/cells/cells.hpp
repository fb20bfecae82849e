// All cells' equations.
#pragma once

#include "cell_list.hpp"
#include "gru.hpp"
#include "lstm.hpp"
#include "lstm_products.hpp"
#include "rnn.hpp"
