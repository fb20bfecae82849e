// Which ISA's kernels run. The best that the CPU has, or the one named in FUSEDRNN_ISA; a name that is unknown, or that
// this CPU or this build lacks, raises std::invalid_argument: nothing is replaced silently.
#pragma once

#include <string>
#include <vector>

#include "../problem.hpp"

namespace fusedrnn {

constexpr int kMaxIsas = 4;

struct Isa {
  const Kernels* kernels;
  int index;  // 0..kMaxIsas-1, the same for the life of the process
};

Isa current_isa();
void set_isa(const std::string& name);
std::vector<std::string> available_isas();  // best first

}  // namespace fusedrnn
