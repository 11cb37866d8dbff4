// How are activations stored in bfloat16 and multiplied two at a time by AVX512_BF16?
//
// A vector of 32 columns is computed with as two of 16 floats: of every 8 columns the first 4 and the
// last 4, which is how unpacking splits 16-bit words. `vdpbf16ps` multiplies pairs of words and adds
// both products, so the words of any two inputs are interleaved as they are loaded.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "layout.h"
#include "simd.h"

namespace {

constexpr int kLanes = 32;
constexpr int kMerged = 2;
typedef uint16_t Element;
typedef uint16_t Line __attribute__((vector_size(64), may_alias));
typedef thinlens::Pair Item;

struct Vec {
  Floats low, high;
};

inline Vec operator+(Vec a, Vec b) { return {a.low + b.low, a.high + b.high}; }
inline Vec operator*(Vec a, Vec b) { return {a.low * b.low, a.high * b.high}; }
inline Vec operator+(Vec a, float b) { return {a.low + b, a.high + b}; }
inline Vec operator*(Vec a, float b) { return {a.low * b, a.high * b}; }
inline void operator+=(Vec& a, Vec b) { a = a + b; }
inline void operator*=(Vec& a, Vec b) { a = a * b; }
inline Vec maximum(Vec a, Vec b) { return {maximum(a.low, b.low), maximum(a.high, b.high)}; }
inline Vec sigmoid(Vec x) { return {sigmoid(x.low), sigmoid(x.high)}; }
inline Vec activate(Vec v, float slope) { return {activate(v.low, slope), activate(v.high, slope)}; }
inline Vec splat(float value) { return {all(value), all(value)}; }

inline Vec unpacked(__m512i a, __m512i b) {
  return {reinterpret_cast<Floats>(_mm512_unpacklo_epi16(a, b)),
          reinterpret_cast<Floats>(_mm512_unpackhi_epi16(a, b))};
}

inline Vec load(const Element* p) {  // a bfloat16 is the upper half of a float
  return unpacked(_mm512_setzero_si512(), _mm512_load_si512(p));
}

inline void store(Element* p, Vec v) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const auto words = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(v.high),
                                         reinterpret_cast<__m512>(v.low));
  _mm512_store_si512(p, _mm512_permutexvar_epi64(order, (__m512i)words));
}

inline void store(float* p, Vec v) {
  store_floats(p, __builtin_shufflevector(v.low, v.high, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20,
                                          21, 22, 23));
  store_floats(p + kFloats, __builtin_shufflevector(v.low, v.high, 8, 9, 10, 11, 24, 25, 26, 27, 12,
                                                    13, 14, 15, 28, 29, 30, 31));
}

inline Line load_line(const Element* p) { return *reinterpret_cast<const Line*>(p); }
inline void store_line(Element* p, Line v) { *reinterpret_cast<Line*>(p) = v; }
inline Vec load_sum(const float* p) { return {load_floats(p), load_floats(p + kFloats)}; }
inline void store_sum(float* p, Vec v) {
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
inline Element to_element(float value) { return thinlens::rounded(value); }

inline Line lanes_up(Line v) {
  return __builtin_shufflevector(v, Line{}, 32, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                                 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30);
}
inline Line lanes_down(Line v) {
  return __builtin_shufflevector(v, Line{}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
                                 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32);
}

typedef Vec Input;       // interleaved words of two inputs
typedef __m512i Weight;  // the same two weights everywhere

inline Input interleaved(const char* a, const char* b) {
  __m512i first = _mm512_load_si512(a), second = _mm512_load_si512(b);
  asm("" : "+v"(first), "+v"(second));  // else the second is loaded again for each half
  return unpacked(first, second);
}

inline void multiply_add(Vec& sum, Weight weight, Input in) {
  const auto dot = [weight](Floats to, Floats words) {
    return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(to),
                                                     (__m512bh)reinterpret_cast<__m512i>(words),
                                                     (__m512bh)weight));
  };
  sum.low = dot(sum.low, in.low);
  sum.high = dot(sum.high, in.high);
}

// Two living weights, walking down the rows of their inputs.
struct Walk {
  const char *p, *q;
  const Weight weight;

  Walk(const char* x, const Item& item)
      : p(x + item.first), q(x + item.second), weight(_mm512_set1_epi32(int32_t(item.weights))) {}
  void add(Vec& sum, int64_t bytes) const {
    multiply_add(sum, weight, interleaved(p + bytes, q + bytes));
  }
  void down(int64_t row) {
    p += row, q += row;
    asm("" : "+r"(p), "+r"(q));  // as in fp32.h
  }
};

inline Input read(const char* x, const int32_t* offsets, int64_t bytes) {
  return interleaved(x + offsets[0] + bytes, x + offsets[1] + bytes);
}
inline Weight weight_of(const void* weights, int64_t index) {
  return _mm512_set1_epi32(static_cast<const int32_t*>(weights)[index]);
}

}  // namespace
