// Which vector operations do the kernels need? THINLENS_LANES is set by the file that includes this.
//
// Vectors are the compiler's own (GCC and Clang), so one source serves SSE, AVX2, AVX-512 and NEON;
// everything sits in an unnamed namespace so that no instruction set leaks into another's object.
#pragma once

#include <cstdint>

namespace {

constexpr int kLanes = THINLENS_LANES;
typedef float Vec __attribute__((vector_size(4 * THINLENS_LANES), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * THINLENS_LANES), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline Vec splat(float value) { return value - Vec{}; }  // exact for -0 too
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

// Lane l of the result is lane l - 1 (up) or l + 1 (down); zero enters.
#if THINLENS_LANES == 4
inline Vec lanes_up(Vec v) { return __builtin_shufflevector(v, Vec{}, 4, 0, 1, 2); }
inline Vec lanes_down(Vec v) { return __builtin_shufflevector(v, Vec{}, 1, 2, 3, 4); }
#elif THINLENS_LANES == 8
inline Vec lanes_up(Vec v) { return __builtin_shufflevector(v, Vec{}, 8, 0, 1, 2, 3, 4, 5, 6); }
inline Vec lanes_down(Vec v) { return __builtin_shufflevector(v, Vec{}, 1, 2, 3, 4, 5, 6, 7, 8); }
#else
inline Vec lanes_up(Vec v) {
  return __builtin_shufflevector(v, Vec{}, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
}
inline Vec lanes_down(Vec v) {
  return __builtin_shufflevector(v, Vec{}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
}
#endif

inline Vec activate(Vec v, float slope) {
  if (slope == 1.0f) return v;
  const Vec negative = slope == 0.0f ? Vec{} : v * slope;
  return v < 0.0f ? negative : v;  // NaN stays NaN
}

// exp by 2^n e^r, |r| <= ln 2 / 2, and the Taylor series of e^r to r^7 (error under 1e-8).
inline Vec exponential(Vec x) {
  x = smaller(larger(x, splat(-87.0f)), splat(88.0f));
  constexpr float round_by = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer
  const Vec n = (x * 1.44269504f + round_by) - round_by;
  const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec e = splat(1.0f / 5040);
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
  return e * reinterpret_cast<const Vec&>(power);
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace
