// The largest magnitude in a tensor, by which int16 convolutions scale their inputs.
#pragma once

#include "tensor.h"

namespace thinlens {

struct RangeJob {
  View in;
  float* largest;  // of all runs

  auto views() { return std::array{&in}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::RangeJob;

// Floats that are not negative are ordered as their bits are.
inline void raise_to(float* largest, float value) {
  int32_t* const bits = reinterpret_cast<int32_t*>(largest);
  int32_t candidate, current = __atomic_load_n(bits, __ATOMIC_RELAXED);
  std::memcpy(&candidate, &value, sizeof candidate);
  while (candidate > current && !__atomic_compare_exchange_n(bits, &current, candidate, true,
                                                             __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

void run_range(const RangeJob& job, int begin, int end, float*) {
  float largest = 0.0f;  // NaN is none
  alignas(64) float lanes[kLanes];
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.in.channels; ++c) {
      const Element* row = row_of<const Element>(job.in, y, c);
      for (int i = 0; i < job.in.row_vectors * kLanes; i += kLanes) {
        store_partial_sum(lanes, load(row + i));
        for (const float value : lanes) {
          const float size = value < 0.0f ? -value : value;
          if (size > largest) largest = size;
        }
      }
    }
  raise_to(job.largest, largest);
}

}  // namespace
#endif
