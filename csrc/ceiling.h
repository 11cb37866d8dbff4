// Which loops show what a CPU can do at best?
#pragma once

#include "simd.h"

namespace {

// More sums than a core has multiply-adds in flight (latency 4 or 5, two units).
constexpr int kChains = 12;
constexpr int64_t kFlopsAStep = int64_t(2) * kChains * kFloats;

// `steps` steps of multiply-adds that touch no memory. `value` is not known to the compiler.
float run_multiply_adds(int64_t steps, float value) {
  const Floats factor = all(value), term = all(1.0f - value);
  Floats sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = all(float(c));
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = sums[c] * factor + term;
  Floats total = sums[0];
  for (int c = 1; c < kChains; ++c) total += sums[c];
  return total[0];
}

// Reads and writes every float once; `floats` is a multiple of a vector.
void run_scale(const float* from, float* to, int64_t floats, float value) {
  const Floats factor = all(value);
  for (int64_t i = 0; i < floats; i += kFloats)
    store_floats(to + i, load_floats(from + i) * factor);
}

}  // namespace
