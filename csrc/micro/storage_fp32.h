// Storage of activations and weights in float32.
//
// Every storage_*.h defines the same names: Element, StoredVector, Vector and their loads and
// stores; RowCursor, which the sparse micro-kernel multiplies with; Input and Weight of the dense
// one.
#pragma once

#include "nonzero.h"
#include "simd.h"

namespace {

constexpr int kLanes = kFloats;
constexpr int kFusedWeights = 1;  // weights per multiply-add
typedef float Element;            // a value in memory
typedef Floats StoredVector;      // a vector in memory
typedef Floats Vector;            // a vector in registers
typedef thinlens::NonZero StoredNonZero;

inline Vector load(const float* p) { return load_floats(p); }
inline void store(float* p, Vector v) { store_floats(p, v); }
inline StoredVector load_stored(const float* p) { return load_floats(p); }
inline void store_stored(float* p, StoredVector v) { store_floats(p, v); }
inline Vector load_partial_sum(const float* p) { return load_floats(p); }
inline void store_partial_sum(float* p, Vector v) { store_floats(p, v); }
inline Vector broadcast(float value) { return broadcast_floats(value); }
inline float to_float(float value) { return value; }
inline float to_element(float value) { return value; }

// Lane l of the result is lane l - 1 (up) or l + 1 (down); zero enters.
#if THINLENS_FLOATS == 4
inline StoredVector shift_lanes_up(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 4, 0, 1, 2);
}
inline StoredVector shift_lanes_down(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 1, 2, 3, 4);
}
#elif THINLENS_FLOATS == 8
inline StoredVector shift_lanes_up(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 8, 0, 1, 2, 3, 4, 5, 6);
}
inline StoredVector shift_lanes_down(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 1, 2, 3, 4, 5, 6, 7, 8);
}
#else
inline StoredVector shift_lanes_up(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                 13, 14);
}
inline StoredVector shift_lanes_down(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
                                 15, 16);
}
#endif

#if defined(__aarch64__)
}  // namespace

#include "multiply_neon.h"
#else
// One non-zero weight, multiplied with its inputs row by row.
struct RowCursor {
  const char* p;
  const Vector weight;

  RowCursor(const char* x, const StoredNonZero& nonzero)
      : p(x + nonzero.offset), weight(broadcast(nonzero.weight)) {}
  void multiply_add(Vector& sum, int64_t bytes) const {
    sum += weight * *reinterpret_cast<const Vector*>(p + bytes);
  }
  void next_row(int64_t row) {
    p += row;
    asm("" : "+r"(p));  // keep one pointer per row; else the compiler keeps one per vector
  }
};

// What the dense micro-kernel loads once for many output channels, and their weights.
typedef Vector Input;
typedef Vector Weight;
inline Input load_input(const char* x, const int32_t* offsets, int64_t bytes) {
  return *reinterpret_cast<const Vector*>(x + offsets[0] + bytes);
}
inline Weight load_weight(const void* weights, int64_t index) {
  return broadcast(static_cast<const float*>(weights)[index]);
}
inline void multiply_add(Vector& sum, Weight weight, Input in) { sum += weight * in; }

template <int N>
struct WeightBlock {
  Weight weights[N];

  WeightBlock(const void* from, int64_t index) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) weights[i] = load_weight(from, index + i);
  }
  void multiply_add(Vector& sum, int i, Input in) const { ::multiply_add(sum, weights[i], in); }
};

}  // namespace
#endif
