// Read the wall clock, or the CPU time of the calling thread.
#pragma once

#include <time.h>

namespace thinlens {

// Seconds. CPU time of one thread excludes what other programs run meanwhile.
inline double clock_seconds(bool thread_cpu_time) {
  timespec t;
  clock_gettime(thread_cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace thinlens
