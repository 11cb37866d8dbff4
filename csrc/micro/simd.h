// Arithmetic on vectors of floats, shared by all sets of instructions.
//
// Vectors are the compiler's own (GCC and Clang), so one source serves SSE, AVX2, AVX-512 and NEON;
// THINLENS_FLOATS, how many a vector holds, is set by each csrc/isa/*.cpp. Everything is in an
// unnamed namespace so that no object uses the instructions of another.
#pragma once

#include <cstdint>

namespace {

constexpr int kFloats = THINLENS_FLOATS;
typedef float Floats __attribute__((vector_size(4 * THINLENS_FLOATS), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * THINLENS_FLOATS), may_alias));

inline Floats load_floats(const float* p) { return *reinterpret_cast<const Floats*>(p); }
inline void store_floats(float* p, Floats v) { *reinterpret_cast<Floats*>(p) = v; }
inline Floats broadcast_floats(float value) { return value - Floats{}; }  // exact for -0 too
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats maximum(Floats a, Floats b) {  // propagates NaN, as torch does
  return a >= b || a != a ? a : b;
}

inline Floats activate(Floats v, float slope) {
  if (slope == 1.0f) return v;
  const Floats negative = slope == 0.0f ? Floats{} : v * slope;
  return v < 0.0f ? negative : v;  // NaN stays NaN
}

// exp by 2^n e^r, |r| <= ln 2 / 2, and the Taylor series of e^r to r^7 (error under 1e-8).
inline Floats exponential(Floats x) {
  x = smaller(larger(x, broadcast_floats(-87.0f)), broadcast_floats(88.0f));
  constexpr float round_by = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats n = (x * 1.44269504f + round_by) - round_by;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats e = broadcast_floats(1.0f / 5040);
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return e * reinterpret_cast<const Floats&>(power);
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace
