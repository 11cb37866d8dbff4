// The table of one instruction set's kernels.
#pragma once

#include <cstdint>

#include "op_list.h"

namespace thinlens {

// Compute rows [begin, end) of the output (before a pixel shuffle), their halo included. `scratch`
// is memory of the calling thread.
template <class Job>
using Kernel = void (*)(const Job&, int begin, int end, float* scratch);

struct Kernels {
  const char* name;
  int lanes;          // values per vector
  int value_bytes;    // per stored value
  int fused_weights;  // weights per multiply-add; 2: non-zeros come as NonZeroPair
  Tile tile;
  // Loops that show the machine's limits (micro/peak.h).
  int64_t peak_flops_per_step;
  float (*peak_flops)(int64_t steps, float value);
  void (*peak_bandwidth)(const float* from, float* to, int64_t floats, float value);
  // One kernel per operation of op_list.h.
#define THINLENS_OP(name, Job) Kernel<Job> name;
  THINLENS_OPS(THINLENS_OP)
#undef THINLENS_OP
};

}  // namespace thinlens
