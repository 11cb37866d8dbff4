// Measurement of the machine's peak arithmetic throughput and memory bandwidth.
#pragma once

#include "kernels.h"
#include "thread_pool.h"

namespace thinlens {

struct MachineLimits {
  double flops;  // per second, in registers
  double bytes;  // per second, read and written, in memory
};

MachineLimits measure_limits(const Kernels&, ThreadPool&);

}  // namespace thinlens
