// The OpenMP runtime of the host program, if it has one: libgomp under whatever name, libiomp5 or libomp. It is found
// among the libraries that are loaded, and never loaded by us. All three have GNU's entry point.
#pragma once

#include <string>

namespace fusedrnn {

struct OpenMP {
  // Runs function(data) on up to num_threads threads, the calling one among them; returns when all have ended.
  void (*parallel)(void (*function)(void*), void* data, unsigned num_threads, unsigned flags);
  int (*in_parallel)();  // whether the calling thread is in a region that is active
  int (*thread_num)();
  int (*num_threads)();  // of the region
};

// Null where none is loaded, and in the child of a fork that came after this library: the threads are the parent's, and
// a region might wait for them for ever.
const OpenMP* host_openmp();
// The file of the runtime, or nothing.
std::string host_openmp_file();

}  // namespace fusedrnn
