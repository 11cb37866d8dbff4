// Storage of activations and weights in bfloat16, multiplied two at a time by AVX512_BF16.
//
// A vector of 32 columns is held in registers as two of 16 floats: of every 8 columns the first 4
// and the last 4, which is how unpacking splits 16-bit words. `vdpbf16ps` multiplies pairs of words
// and adds both products, so the words of any two inputs are interleaved as they are loaded. See
// storage_fp32.h for what the names mean.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "nonzero.h"
#include "simd.h"

namespace {

constexpr int kLanes = 32;
constexpr int kFusedWeights = 2;
typedef uint16_t Element;
typedef uint16_t StoredVector __attribute__((vector_size(64), may_alias));
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

inline Vector unpack_words(__m512i a, __m512i b) {
  return {reinterpret_cast<Floats>(_mm512_unpacklo_epi16(a, b)),
          reinterpret_cast<Floats>(_mm512_unpackhi_epi16(a, b))};
}

inline Vector load(const Element* p) {  // a bfloat16 is the upper half of a float
  return unpack_words(_mm512_setzero_si512(), _mm512_load_si512(p));
}

inline void store(Element* p, Vector v) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const auto words =
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(v.high), reinterpret_cast<__m512>(v.low));
  _mm512_store_si512(p, _mm512_permutexvar_epi64(order, (__m512i)words));
}

inline void store(float* p, Vector v) {
  store_floats(p, __builtin_shufflevector(v.low, v.high, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20,
                                          21, 22, 23));
  store_floats(p + kFloats, __builtin_shufflevector(v.low, v.high, 8, 9, 10, 11, 24, 25, 26, 27, 12,
                                                    13, 14, 15, 28, 29, 30, 31));
}

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

inline StoredVector shift_lanes_up(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 32, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
                                 30);
}
inline StoredVector shift_lanes_down(StoredVector v) {
  return __builtin_shufflevector(v, StoredVector{}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
                                 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                 32);
}

typedef Vector Input;    // interleaved words of two inputs
typedef __m512i Weight;  // the same two weights in every lane

inline Input interleave(const char* a, const char* b) {
  __m512i first = _mm512_load_si512(a), second = _mm512_load_si512(b);
  asm("" : "+v"(first), "+v"(second));  // else the second is loaded again for each half
  return unpack_words(first, second);
}

inline void multiply_add(Vector& sum, Weight weight, Input in) {
  const auto dot = [weight](Floats to, Floats words) {
    return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(to),
                                                     (__m512bh) reinterpret_cast<__m512i>(words),
                                                     (__m512bh)weight));
  };
  sum.low = dot(sum.low, in.low);
  sum.high = dot(sum.high, in.high);
}

// Two non-zero weights, multiplied with their inputs row by row.
struct RowCursor {
  const char *p, *q;
  const Weight weight;

  RowCursor(const char* x, const StoredNonZero& pair)
      : p(x + pair.first), q(x + pair.second), weight(_mm512_set1_epi32(int32_t(pair.weights))) {}
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
  return _mm512_set1_epi32(static_cast<const int32_t*>(weights)[index]);
}

}  // namespace
