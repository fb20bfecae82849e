#include "platform.hpp"
#include "windows.hpp"

#if !defined(_WIN32)
#include <pthread.h>
#include <unistd.h>
#endif

namespace fusedrnn {

#if defined(_WIN32)

bool call_in_children(void (*)()) { return true; }
std::int64_t process_id() { return GetCurrentProcessId(); }
void wait_for_the_end() {
  for (;;) Sleep(INFINITE);
}
SignalsBlocked::SignalsBlocked() {}
SignalsBlocked::~SignalsBlocked() {}

#else

bool call_in_children(void (*in_child)()) { return pthread_atfork(nullptr, nullptr, in_child) == 0; }
std::int64_t process_id() { return getpid(); }
void wait_for_the_end() {
  for (;;) ::pause();
}
SignalsBlocked::SignalsBlocked() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}
SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

#endif

}  // namespace fusedrnn
