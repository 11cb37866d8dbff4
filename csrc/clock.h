// How long did something take?
#pragma once

#include <time.h>

namespace thinlens {

// Seconds on the wall or, of one thread, on the CPU: other programs then do not count.
inline double now(bool one_thread) {
  timespec t;
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace thinlens
