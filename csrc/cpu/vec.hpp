// Vec<T>, of the ISA that this file is compiled for. vec_portable.hpp documents the interface.
#pragma once

#if defined(RNN_ISA_AVX512)
#include "vec_avx512.hpp"
#elif defined(RNN_ISA_AVX2)
#include "vec_avx2.hpp"
#elif defined(RNN_ISA_NEON)
#include "vec_neon.hpp"
#else
#include "vec_portable.hpp"
#endif
