// What this machine has, and what the work of kernels costs on it, as far as a choice of schedules needs it (cost.hpp).
// bench/schedules.py measures the costs of a machine, and says how. FUSEDRNN_MACHINE names a file of such measures;
// without it, costs are those of no machine in particular, and sizes are asked of the system.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fusedrnn {

// X(name, default): sizes in bytes, counts; then costs in nanoseconds.
#define RNN_MACHINE(X)                                                                                 \
  X(l1_bytes, 32 * 1024)                                                                               \
  X(l2_bytes, 1024 * 1024)                                                                             \
  X(l3_bytes, 16 * 1024 * 1024)                                                                        \
  X(cycle, 0.35)       /* of a core's clock; loads take half of one, a chain of multiply-adds 4 */     \
  X(fma, 0.2)          /* a vector of multiply-adds */                                                 \
  X(kernel, 15)        /* a call of the micro-kernel, beside its multiply-adds */                      \
  X(sum, 0.6)          /* a vector of sums, in and out of registers, once a block of k */              \
  X(l2_line, 0.8)      /* a cache line of weights from L2 */                                           \
  X(l3_line, 3.5)      /* from L3 */                                                                   \
  X(memory_line, 7)    /* from memory */                                                               \
  X(shared_line, 5)    /* that another core has written */                                             \
  X(pointwise, 5)      /* the pointwise step of a vector of units, for each gate; of a forward step */ \
  X(backward, 6)       /* the same of a backward step, for each column of gradients */                 \
  X(row, 10)           /* of a row in a step, to find its operands */                                  \
  X(step, 60)          /* of a phase of a step */                                                      \
  X(meeting, 150)      /* of two workers */                                                            \
  X(meeting_more, 100) /* for each doubling of their number */                                         \
  X(start, 2500)       /* of the other workers of a call, and their end */                             \
  X(start_more, 100)   /* for each of them */

struct Machine {
#define RNN_MEMBER(name, value) double name = value;
  RNN_MACHINE(RNN_MEMBER)
#undef RNN_MEMBER
};

// The machine, read when it is first asked for. Throws std::invalid_argument where FUSEDRNN_MACHINE names no file, or
// one that has a line other than "name value" with a name from above and a positive number, or a comment: "# ...".
const Machine& machine();

// All values by name; and replaces some of them, for measurements. Throws std::invalid_argument for another name, or a
// value that is not positive and finite.
std::vector<std::pair<std::string, double>> machine_values();
void set_machine(const std::vector<std::pair<std::string, double>>& values);

}  // namespace fusedrnn
