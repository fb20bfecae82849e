// What this machine has, and what the work of kernels costs on it, as far as a choice of schedules needs it (cost.hpp).
// bench/schedules.py measures the costs of a machine, and says how. FUSEDRNN_MACHINE names a file of such measures;
// without it, costs lie between those of an Intel Xeon and an AMD EPYC, and sizes are asked of the system.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fusedrnn {

// X(name, default): sizes in bytes; then costs in nanoseconds.
// clang-format off
#define RNN_MACHINE(X)                                                                                  \
  X(l1_bytes, 32 * 1024)                                                                                \
  X(l2_bytes, 1024 * 1024)                                                                              \
  X(l3_bytes, 16 * 1024 * 1024)                                                                         \
  X(cycle, 0.33)        /* of a core's clock; a load takes half of one, a multiply-add ends after 4 */  \
  X(fma, 0.195)         /* a vector of multiply-adds, one of many */                                    \
  X(kernel, 14)         /* a call of the micro-kernel, beside its multiply-adds */                      \
  X(sum, 3.5)           /* a vector of sums, in and out of registers, once a block of k */              \
  X(l2_line, 0.6)       /* a cache line of weights from L2, */                                          \
  X(l3_line, 1.3)       /* from L3, */                                                                  \
  X(l3_more, 0.05)      /* more of that for each other worker that does the same, */                    \
  X(memory_line, 3.6)   /* and from memory, for each worker */                                          \
  X(shared_line, 14)    /* a cache line that another core has written */                                \
  X(pointwise, 4)       /* the pointwise step of a vector of units, for each gate, of forward; */       \
  X(backward, 7.3)      /* and, for each column of gradients, of backward */                            \
  X(row, 5)             /* to find the operands of a row in a step of forward, */                       \
  X(backward_row, 26)   /* of backward, */                                                              \
  X(pair, 15)           /* and in the sums over all steps, for each worker */                           \
  X(copy, 2.5)          /* to bring a vector of these operands into order */                            \
  X(step, 25)           /* a phase of a step */                                                         \
  X(meeting, 200)       /* of two workers, */                                                           \
  X(meeting_more, 100)  /* and for each doubling of their number */                                     \
  X(start, 2700)        /* of the other workers of a call, and their end, */                            \
  X(start_more, 100)    /* and for each of them */
// clang-format on

struct Machine {
#define RNN_MEMBER(name, value) double name = value;
  RNN_MACHINE(RNN_MEMBER)
#undef RNN_MEMBER
};

// The machine, read when it is first needed: by a call that may use several threads. Throws std::invalid_argument where
// FUSEDRNN_MACHINE names no file, or one that has a line other than "name value" with a name from above and a positive
// number, or a comment: "# ...".
const Machine& machine();

// All values by name; and replaces some of them, for measurements. Throws std::invalid_argument for another name, or a
// value that is not positive and finite.
std::vector<std::pair<std::string, double>> machine_values();
void set_machine(const std::vector<std::pair<std::string, double>>& values);

}  // namespace fusedrnn
