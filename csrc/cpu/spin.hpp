// How threads wait for each other.
#pragma once

#include <sched.h>

namespace fusedrnn {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // most cores take `yield` for nothing
#endif
}

// Spins on `done`, gently; where there are more threads than CPUs, or the wait grows long, gives the CPU away.
template <class Done>
void spin_until(bool crowded, Done&& done) {
  for (int spins = 0; !done(); ++spins) {
    if (crowded || spins > 128)
      sched_yield();
    else
      pause();
  }
}

}  // namespace fusedrnn
