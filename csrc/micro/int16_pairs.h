// Arithmetic on pairs of 16-bit integers: conversion of floats, interleaving, multiply-accumulate.
//
// A vector of words holds two vectors of floats, in the order in which the instructions of a CPU
// pack them. `pair_words` prepares two vectors of words for multiplication with a pair of weights:
// x86 interleaves them, which also undoes the order of packing; NEON multiplies halves of a vector
// by an element of another one (`smlal`). Elsewhere the compiler's vectors are used.
#pragma once

#include <cstdint>

#include "simd.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

constexpr int kWords = 2 * kFloats;
typedef int16_t Words __attribute__((vector_size(4 * THINLENS_FLOATS), may_alias));

inline Words load_words(const char* p) { return *reinterpret_cast<const Words*>(p); }
inline void store_words(char* p, Words v) { *reinterpret_cast<Words*>(p) = v; }
inline Ints broadcast_ints(int32_t value) { return value - Ints{}; }

#if !defined(__ARM_NEON)
struct WordPairs {  // of the words that are in the first vectors of floats, and in the second ones
  Ints low, high;
};
#endif

// Both are loaded once: else the compiler loads the second again for each of its halves.
inline void keep_in_registers([[maybe_unused]] Words& a, [[maybe_unused]] Words& b) {
#if THINLENS_FLOATS == 16
  asm("" : "+v"(a), "+v"(b));
#elif defined(__SSE2__)
  asm("" : "+x"(a), "+x"(b));
#endif
}

// Round both to integers of at most `largest`, which is at most 32767. NaN becomes `largest`.
#if defined(__AVX512BW__) && THINLENS_FLOATS == 16
inline Words to_words(Floats low, Floats high, float largest) {
  const __m512 most = _mm512_set1_ps(largest), least = _mm512_set1_ps(-largest);
  const auto rounded = [&](Floats v) {
    return _mm512_cvtps_epi32(
        _mm512_max_ps(_mm512_min_ps(reinterpret_cast<__m512>(v), most), least));
  };
  return (Words)_mm512_packs_epi32(rounded(low), rounded(high));
}
inline WordPairs pair_words(Words a, Words b) {
  return {(Ints)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b),
          (Ints)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b)};
}
inline Words maximum(Words a, Words b) { return (Words)_mm512_max_epi16((__m512i)a, (__m512i)b); }
inline Words minimum(Words a, Words b) { return (Words)_mm512_min_epi16((__m512i)a, (__m512i)b); }
#if defined(__AVX512VNNI__)
inline Ints add_pairs(Ints sum, Ints pairs, Ints weights) {
  return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)pairs, (__m512i)weights);
}
#else
inline Ints add_pairs(Ints sum, Ints pairs, Ints weights) {
  return sum + (Ints)_mm512_madd_epi16((__m512i)pairs, (__m512i)weights);
}
#endif
#elif defined(__AVX2__) && THINLENS_FLOATS == 8
inline Words to_words(Floats low, Floats high, float largest) {
  const __m256 most = _mm256_set1_ps(largest), least = _mm256_set1_ps(-largest);
  const auto rounded = [&](Floats v) {
    return _mm256_cvtps_epi32(
        _mm256_max_ps(_mm256_min_ps(reinterpret_cast<__m256>(v), most), least));
  };
  return (Words)_mm256_packs_epi32(rounded(low), rounded(high));
}
inline WordPairs pair_words(Words a, Words b) {
  return {(Ints)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b),
          (Ints)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b)};
}
inline Words maximum(Words a, Words b) { return (Words)_mm256_max_epi16((__m256i)a, (__m256i)b); }
inline Words minimum(Words a, Words b) { return (Words)_mm256_min_epi16((__m256i)a, (__m256i)b); }
inline Ints add_pairs(Ints sum, Ints pairs, Ints weights) {
  return sum + (Ints)_mm256_madd_epi16((__m256i)pairs, (__m256i)weights);
}
#elif defined(__SSE2__) && THINLENS_FLOATS == 4
inline Words to_words(Floats low, Floats high, float largest) {
  const __m128 most = _mm_set1_ps(largest), least = _mm_set1_ps(-largest);
  const auto rounded = [&](Floats v) {
    return _mm_cvtps_epi32(_mm_max_ps(_mm_min_ps(reinterpret_cast<__m128>(v), most), least));
  };
  return (Words)_mm_packs_epi32(rounded(low), rounded(high));
}
inline WordPairs pair_words(Words a, Words b) {
  return {(Ints)_mm_unpacklo_epi16((__m128i)a, (__m128i)b),
          (Ints)_mm_unpackhi_epi16((__m128i)a, (__m128i)b)};
}
inline Words maximum(Words a, Words b) { return (Words)_mm_max_epi16((__m128i)a, (__m128i)b); }
inline Words minimum(Words a, Words b) { return (Words)_mm_min_epi16((__m128i)a, (__m128i)b); }
inline Ints add_pairs(Ints sum, Ints pairs, Ints weights) {
  return sum + (Ints)_mm_madd_epi16((__m128i)pairs, (__m128i)weights);
}
#else
inline Words to_words(Floats low, Floats high, float largest) {
  constexpr float round_by = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const auto rounded = [&](Floats v) {
    v = v < largest ? v : broadcast_floats(largest);
    v = v > -largest ? v : broadcast_floats(-largest);
    return __builtin_convertvector((v + round_by) - round_by, Ints);
  };
  const Ints a = rounded(low), b = rounded(high);
  Words words{};
  for (int i = 0; i < kFloats; ++i) words[i] = int16_t(a[i]), words[kFloats + i] = int16_t(b[i]);
  return words;
}
inline Words maximum(Words a, Words b) { return a > b ? a : b; }
inline Words minimum(Words a, Words b) { return a < b ? a : b; }
#if !defined(__ARM_NEON)
inline Ints pairs_from(Words a, Words b, int first) {
  Words pairs{};
  for (int i = 0; i < kFloats; ++i) pairs[2 * i] = a[first + i], pairs[2 * i + 1] = b[first + i];
  return reinterpret_cast<const Ints&>(pairs);
}
inline WordPairs pair_words(Words a, Words b) {
  return {pairs_from(a, b, 0), pairs_from(a, b, kFloats)};
}
inline Ints add_pairs(Ints sum, Ints pairs, Ints weights) {
  return sum + (pairs << 16 >> 16) * (weights << 16 >> 16) + (pairs >> 16) * (weights >> 16);
}
#endif
#endif

// Add the products of both vectors of words with their weights, those of the first vectors of
// floats to `low`.
#if defined(__ARM_NEON)
struct WordPairs {
  int16x8_t first, second;
};
inline WordPairs pair_words(Words a, Words b) { return {(int16x8_t)a, (int16x8_t)b}; }
inline void add_products(Ints& low, Ints& high, const WordPairs& pairs, Ints weights) {
  const int16x4_t w = vget_low_s16((int16x8_t)weights);
  int32x4_t l = (int32x4_t)low, h = (int32x4_t)high;
  l = vmlal_lane_s16(l, vget_low_s16(pairs.first), w, 0);
  h = vmlal_high_lane_s16(h, pairs.first, w, 0);
  low = (Ints)vmlal_lane_s16(l, vget_low_s16(pairs.second), w, 1);
  high = (Ints)vmlal_high_lane_s16(h, pairs.second, w, 1);
}
#else
inline void add_products(Ints& low, Ints& high, const WordPairs& pairs, Ints weights) {
  low = add_pairs(low, pairs.low, weights);
  high = add_pairs(high, pairs.high, weights);
}
#endif

}  // namespace
