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

// N floats in memory that are multiplied with vectors one by one. NEON multiplies by an element of
// a register: one load brings four.
template <int N>
struct Factors {
#if defined(__aarch64__)
  static constexpr bool kElements = N % kFloats == 0;
  Floats vectors[kElements ? N / kFloats : 1];
  const float* p;

  explicit Factors(const float* from) : p(from) {
    if constexpr (kElements)
#pragma GCC unroll 8
      for (int i = 0; i < N / kFloats; ++i) vectors[i] = load_floats(from + i * kFloats);
  }
  void multiply_add(Floats& sum, int i, Floats x) const {
    sum += x * (kElements ? vectors[i / kFloats][i % kFloats] : p[i]);
  }
#else
  const float* p;

  explicit Factors(const float* from) : p(from) {}
  void multiply_add(Floats& sum, int i, Floats x) const { sum += broadcast_floats(p[i]) * x; }
#endif
};

inline Floats maximum(Floats a, Floats b) {  // propagates NaN, as torch does
  return a >= b || a != a ? a : b;
}
inline Floats minimum(Floats a, Floats b) { return a <= b || a != a ? a : b; }

inline Floats activate(Floats v, float slope) {
  if (slope == 1.0f) return v;
  const Floats negative = slope == 0.0f ? Floats{} : v * slope;
  return v < 0.0f ? negative : v;  // NaN stays NaN
}

inline Floats clamp(Floats v, float low, float high) {  // NaN stays NaN
  v = v < low ? broadcast_floats(low) : v;
  return v > high ? broadcast_floats(high) : v;
}

inline Ints bits_of(Floats v) { return reinterpret_cast<const Ints&>(v); }
inline Floats floats_of(Ints v) { return reinterpret_cast<const Floats&>(v); }

struct Power {  // e^x = scale * 2 * (1 + fraction)
  Floats scale, fraction;
};

// e^x as 2^n e^r, |r| <= ln 2 / 2, and the Taylor series of e^r - 1 to r^7 (error under 1e-8).
// Under -87 it is 0, from 89 on infinite.
inline Power power_of_e(Floats x) {
  x = clamp(x, -87.33f, 89.0f);
  constexpr float round_by = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats n = (x * 1.44269504f + round_by) - round_by;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats e = broadcast_floats(1.0f / 5040);
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  // half of 2^n, which is a float even where e^x is infinite
  return {floats_of((__builtin_convertvector(n, Ints) + 126) << 23), e * r * r + r};
}

inline Floats exponential(Floats x) {
  const Power p = power_of_e(x);
  return p.scale * (p.fraction + 1.0f) * 2.0f;
}

inline Floats exponential_minus_one(Floats x) {  // exact near 0
  const Power p = power_of_e(x);
  return (p.scale * p.fraction + (p.scale - 0.5f)) * 2.0f;
}

// log(2^n m) = n ln 2 + log m, m in [sqrt(1/2), sqrt(2)), and log m = 2 artanh((m - 1) / (m + 1)).
inline Floats logarithm(Floats x) {
  constexpr float smallest = 1.17549435e-38f, infinity = __builtin_inff();
  const Floats normal = x < smallest ? x * 33554432.0f : x;  // 2^25
  const Ints offset = bits_of(normal) - 0x3f3504f3;          // sqrt(1/2)
  const Floats n = __builtin_convertvector(offset >> 23, Floats) -
                   (x < smallest ? broadcast_floats(25.0f) : Floats{});
  const Floats m = floats_of((offset & 0x7fffff) + 0x3f3504f3) - 1.0f;
  const Floats s = m / (m + 2.0f), t = s * s;
  Floats series = broadcast_floats(2.0f / 11);
  series = series * t + 2.0f / 9;
  series = series * t + 2.0f / 7;
  series = series * t + 2.0f / 5;
  series = series * t + 2.0f / 3;
  // 2 s = m - s m, which is exact where m is small
  Floats result = n * 0.693359375f + (n * -2.12194440e-4f + (m - s * (m - series * t)));
  result = x == 0.0f ? broadcast_floats(-infinity) : result;
  result = x < 0.0f ? broadcast_floats(__builtin_nanf("")) : result;
  return x >= infinity || x != x ? x : result;
}

inline Floats logarithm_plus_one(Floats x) {  // log(1 + x), exact near 0
  const Floats sum = x + 1.0f, rounded = sum - 1.0f;
  const Floats exact = logarithm(sum) * (x / rounded);
  return rounded == 0.0f ? x : x == __builtin_inff() ? x : exact;
}

inline Floats square_root(Floats x) {
  Floats result;
  for (int i = 0; i < kFloats; ++i) result[i] = __builtin_sqrtf(x[i]);
  return result;
}

inline Floats inverse_square_root(Floats x) { return 1.0f / square_root(x); }

inline Floats hyperbolic_tangent(Floats x) {
  const Floats e = exponential_minus_one(clamp(x, -10.0f, 10.0f) * 2.0f);
  return e / (e + 2.0f);
}

// x P(x^2) / Q(x^2) up to 3.92, where the float is nearly 1; fitted (relative error under 2e-8).
// From there on it is exactly 1, so that 1 + erf(x) is 0 on the negative side.
inline Floats error_function(Floats value) {
  constexpr float last = 3.92f;
  const Floats x = clamp(value, -last, last);
  const Floats t = x * x;
  Floats p = broadcast_floats(2.0501096960096266e-06f);
  p = p * t + 0.00028487810429533405f;
  p = p * t + 0.0037654422464865355f;
  p = p * t + 0.05274818680040361f;
  p = p * t + 0.19040250154626093f;
  p = p * t + 1.1283791462487f;
  Floats q = broadcast_floats(3.809170327028314e-05f);
  q = q * t + 0.0011624917396499967f;
  q = q * t + 0.014968869097201321f;
  q = q * t + 0.11410746149718365f;
  q = q * t + 0.5020725656188982f;
  q = q * t + 1.0f;
  const Floats result = clamp(x * p / q, -1.0f, 1.0f);
  const Floats above = value >= last ? broadcast_floats(1.0f) : result;
  return value <= -last ? broadcast_floats(-1.0f) : above;
}

inline Floats round_down(Floats x) {
  const Floats whole = __builtin_convertvector(__builtin_convertvector(x, Ints), Floats);
  const Floats down = whole > x ? whole - 1.0f : whole;
  const Floats size = x < 0.0f ? -x : x;
  return size < 8388608.0f ? down : x;  // from 2^23 on every float is whole; so is NaN
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace
