// Arithmetic on bfloat16 by AVX512_BF16; included by storage_bf16.h.
//
// Of every 8 columns a Vector holds the first 4 in its lower and the last 4 in its upper half,
// which is how unpacking splits 16-bit words.
#pragma once

#include <immintrin.h>

namespace {

typedef __m512i Weight;  // the same two weights in every lane

inline Weight broadcast_pair(int32_t weights) { return _mm512_set1_epi32(weights); }

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

}  // namespace
