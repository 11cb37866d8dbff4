// Storage of activations and weights in bfloat16, multiplied two at a time: AVX512_BF16 and, on
// arm64, the BF16 extension.
//
// Twice kFloats columns are held in registers as two vectors of floats. An instruction multiplies
// pairs of words and adds both products, so the words of any two inputs are interleaved as they are
// loaded. See storage_fp32.h for what the names mean; what depends on the instructions is in
// bf16_avx512.h and bf16_neon.h: load, store, interleave, multiply_add, shift_lanes_up,
// shift_lanes_down, broadcast_pair.
#pragma once

#include <cstring>

#include "nonzero.h"
#include "simd.h"

namespace {

constexpr int kLanes = 2 * kFloats;
constexpr int kFusedWeights = 2;
typedef uint16_t Element;
typedef uint16_t StoredVector __attribute__((vector_size(4 * THINLENS_FLOATS), may_alias));
typedef thinlens::NonZeroPair StoredNonZero;

struct Vector {
  Floats low, high;
};

inline Vector operator+(Vector a, Vector b) { return {a.low + b.low, a.high + b.high}; }
inline Vector operator-(Vector a, Vector b) { return {a.low - b.low, a.high - b.high}; }
inline Vector operator*(Vector a, Vector b) { return {a.low * b.low, a.high * b.high}; }
inline Vector operator+(Vector a, float b) { return {a.low + b, a.high + b}; }
inline Vector operator*(Vector a, float b) { return {a.low * b, a.high * b}; }
inline void operator+=(Vector& a, Vector b) { a = a + b; }
inline void operator*=(Vector& a, Vector b) { a = a * b; }
inline Vector maximum(Vector a, Vector b) {
  return {maximum(a.low, b.low), maximum(a.high, b.high)};
}
inline Vector minimum(Vector a, Vector b) {
  return {minimum(a.low, b.low), minimum(a.high, b.high)};
}
inline Vector inverse_square_root(Vector x) {
  return {inverse_square_root(x.low), inverse_square_root(x.high)};
}
inline Vector activate(Vector v, float slope) {
  return {activate(v.low, slope), activate(v.high, slope)};
}
inline Vector broadcast(float value) { return {broadcast_floats(value), broadcast_floats(value)}; }

inline StoredVector load_stored(const Element* p) {
  return *reinterpret_cast<const StoredVector*>(p);
}
inline void store_stored(Element* p, StoredVector v) { *reinterpret_cast<StoredVector*>(p) = v; }
inline Vector load_partial_sum(const float* p) {
  return {load_floats(p), load_floats(p + kFloats)};
}
inline void store_partial_sum(float* p, Vector v) {
  store_floats(p, v.low);
  store_floats(p + kFloats, v.high);
}

inline float to_float(float value) { return value; }
inline float to_float(Element value) {
  const uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline Element to_element(float value) { return thinlens::to_bf16(value); }

typedef Vector Input;  // interleaved words of two inputs

}  // namespace

#if defined(__aarch64__)
#include "bf16_neon.h"
#else
#include "bf16_avx512.h"
#endif

namespace {

// Two non-zero weights, multiplied with their inputs row by row.
struct RowCursor {
  const char *p, *q;
  const Weight weight;

  RowCursor(const char* x, const StoredNonZero& pair)
      : p(x + pair.first), q(x + pair.second), weight(broadcast_pair(int32_t(pair.weights))) {}
  void multiply_add(Vector& sum, int64_t bytes) const {
    ::multiply_add(sum, weight, interleave(p + bytes, q + bytes));
  }
  void next_row(int64_t row) {
    p += row, q += row;
    asm("" : "+r"(p), "+r"(q));  // as in storage_fp32.h
  }
};

inline Input load_input(const char* x, const int32_t* offsets, int64_t bytes) {
  return interleave(x + offsets[0] + bytes, x + offsets[1] + bytes);
}
inline Weight load_weight(const void* weights, int64_t index) {
  return broadcast_pair(static_cast<const int32_t*>(weights)[index]);
}

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
