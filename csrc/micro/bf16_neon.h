// Arithmetic on bfloat16 by arm64's BF16 extension; included by storage_bf16.h.
//
// A Vector holds the first 4 of 8 columns in its lower half. `bfdot` rounds each pair's sum to odd.
// `bfmmla` is not used: its rows are four neighbouring words of one tensor, and in strided lanes
// neighbours are columns far apart.
#pragma once

#include <arm_neon.h>

namespace {

typedef bfloat16x8_t Weight;  // the same two weights in every lane

inline Weight broadcast_pair(int32_t weights) {
  return vreinterpretq_bf16_s32(vdupq_n_s32(weights));
}

inline Vector load(const Element* p) {  // a bfloat16 is the upper half of a float
  const uint16x8_t words = vld1q_u16(p);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(words), 16)),
          vreinterpretq_f32_u32(vshll_high_n_u16(words, 16))};
}

inline void store(Element* p, Vector v) {
  const bfloat16x8_t words = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(v.low), v.high);
  vst1q_u16(p, vreinterpretq_u16_bf16(words));
}

inline void store(float* p, Vector v) {
  store_floats(p, v.low);
  store_floats(p + kFloats, v.high);
}

inline StoredVector shift_lanes_up(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 8, 0, 1, 2, 3, 4, 5, 6);
}
inline StoredVector shift_lanes_down(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 1, 2, 3, 4, 5, 6, 7, 8);
}

inline Input interleave(const char* a, const char* b) {
  const uint16x8_t first = vld1q_u16(reinterpret_cast<const Element*>(a));
  const uint16x8_t second = vld1q_u16(reinterpret_cast<const Element*>(b));
  return {vreinterpretq_f32_u16(vzip1q_u16(first, second)),
          vreinterpretq_f32_u16(vzip2q_u16(first, second))};
}

inline void multiply_add(Vector& sum, Weight weight, Input in) {
  sum.low = vbfdotq_f32(sum.low, vreinterpretq_bf16_f32(in.low), weight);
  sum.high = vbfdotq_f32(sum.high, vreinterpretq_bf16_f32(in.high), weight);
}

}  // namespace
