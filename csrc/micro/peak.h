// Loops that show a CPU's peak arithmetic throughput and memory bandwidth (for the roofline).
#pragma once

#include "simd.h"

namespace {

// More sums than a core has multiply-adds in flight (latency 4 or 5, two units).
constexpr int kChains = 12;
constexpr int64_t kFlopsPerStep = int64_t(2) * kChains * kFloats;

// `steps` steps of multiply-adds that touch no memory. `value` must be unknown to the compiler.
float run_peak_flops(int64_t steps, float value) {
  const Floats factor = broadcast_floats(value), term = broadcast_floats(1.0f - value);
  Floats sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = broadcast_floats(float(c));
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = sums[c] * factor + term;
  Floats total = sums[0];
  for (int c = 1; c < kChains; ++c) total += sums[c];
  return total[0];
}

// Reads and writes every float once; `floats` is a multiple of a vector.
void run_peak_bandwidth(const float* from, float* to, int64_t floats, float value) {
  const Floats factor = broadcast_floats(value);
  for (int64_t i = 0; i < floats; i += kFloats)
    store_floats(to + i, load_floats(from + i) * factor);
}

}  // namespace
