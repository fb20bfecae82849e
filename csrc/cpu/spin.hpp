// How threads wait for each other.
#pragma once

#include <thread>

#include "../platform/compiler.hpp"

namespace fusedrnn {

// Spins on `done`, gently; where there are more threads than CPUs, or the wait grows long, gives the CPU away.
template <class Done>
void spin_until(bool crowded, Done&& done) {
  for (int spins = 0; !done(); ++spins) {
    if (crowded || spins > 128)
      std::this_thread::yield();
    else
      pause();
  }
}

}  // namespace fusedrnn
