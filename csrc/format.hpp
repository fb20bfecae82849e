// The formats of weights: the type in which they are stored, and the type in which everything is computed. Packing and
// micro-kernels see the storage; problems, pointwise steps and reserves see the type of computation.
//
// A new format is a line here, its storage's load and store (cpu/storage.hpp) and, if it keeps more than elements, its
// own PackedMatrix (problem.hpp), packing (cpu/pack.hpp) and WeightReader (cpu/storage.hpp).
#pragma once

namespace fusedrnn {

//    type, name for users, storage, type of computation
#define RNN_FORMATS(X)                \
  X(Float32, "float32", float, float) \
  X(Float64, "float64", double, double)

// The types of computation, each once.
#define RNN_COMPUTE_TYPES(X) \
  X(float)                   \
  X(double)

#define RNN_FORMAT(Format, text, storage, compute) \
  struct Format {                                  \
    using Storage = storage;                       \
    using Compute = compute;                       \
    static constexpr const char* name = text;      \
  };
RNN_FORMATS(RNN_FORMAT)
#undef RNN_FORMAT

// One Of<Type> for each type.
template <template <class> class Of, class... Types>
struct Each : Of<Types>... {
  template <class Type>
  constexpr const Of<Type>& get() const {
    return *this;
  }
};

// The tables of types as lists; Nothing takes the place before the first comma.
template <template <class> class Of, class Nothing, class... Types>
struct EachAfter {
  using type = Each<Of, Types...>;
};
#define RNN_NEXT_TYPE(Type, ...) , Type
template <template <class> class Of>
using EachFormat = typename EachAfter<Of, void RNN_FORMATS(RNN_NEXT_TYPE)>::type;
template <template <class> class Of>
using EachComputeType = typename EachAfter<Of, void RNN_COMPUTE_TYPES(RNN_NEXT_TYPE)>::type;
#undef RNN_NEXT_TYPE

}  // namespace fusedrnn
