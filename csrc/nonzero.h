// The non-zero weights of a sparse convolution as micro-kernels read them.
#pragma once

#include <cstdint>
#include <cstring>

namespace thinlens {

struct NonZero {
  int32_t offset;  // bytes from the output's position in the input to the value to multiply
  float weight;
};

struct NonZeroPair {  // two weights in bfloat16 or int16, the first in the lower half
  int32_t first, second;
  uint32_t weights;
};

// Round to the nearest bfloat16, ties to even. Static: no object may share another's instructions.
static inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return uint16_t(bits >> 16 | 0x40);  // NaN stays NaN
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace thinlens
