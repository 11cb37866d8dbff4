// How are activations stored and multiplied in float32?
#pragma once

#include "layout.h"
#include "simd.h"

namespace {

constexpr int kLanes = kFloats;
constexpr int kMerged = 1;  // weights that one multiply-add takes
typedef float Element;
typedef Floats Line;  // a vector as it lies in memory
typedef Floats Vec;   // and as it is computed with
typedef thinlens::Entry Item;

inline Vec load(const float* p) { return load_floats(p); }
inline void store(float* p, Vec v) { store_floats(p, v); }
inline Line load_line(const float* p) { return load_floats(p); }
inline void store_line(float* p, Line v) { store_floats(p, v); }
inline Vec load_sum(const float* p) { return load_floats(p); }
inline void store_sum(float* p, Vec v) { store_floats(p, v); }
inline Vec splat(float value) { return all(value); }
inline float to_float(float value) { return value; }
inline float to_element(float value) { return value; }

// Lane l of the result is lane l - 1 (up) or l + 1 (down); zero enters.
#if THINLENS_FLOATS == 4
inline Line lanes_up(Line v) { return __builtin_shufflevector(v, Line{}, 4, 0, 1, 2); }
inline Line lanes_down(Line v) { return __builtin_shufflevector(v, Line{}, 1, 2, 3, 4); }
#elif THINLENS_FLOATS == 8
inline Line lanes_up(Line v) { return __builtin_shufflevector(v, Line{}, 8, 0, 1, 2, 3, 4, 5, 6); }
inline Line lanes_down(Line v) {
  return __builtin_shufflevector(v, Line{}, 1, 2, 3, 4, 5, 6, 7, 8);
}
#else
inline Line lanes_up(Line v) {
  return __builtin_shufflevector(v, Line{}, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
}
inline Line lanes_down(Line v) {
  return __builtin_shufflevector(v, Line{}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
}
#endif

// One living weight, walking down the rows of its input.
struct Walk {
  const char* p;
  const Vec weight;

  Walk(const char* x, const Item& item) : p(x + item.offset), weight(splat(item.weight)) {}
  void add(Vec& sum, int64_t bytes) const {
    sum += weight * *reinterpret_cast<const Vec*>(p + bytes);
  }
  void down(int64_t row) {
    p += row;
    asm("" : "+r"(p));  // one pointer a row; left alone, the compiler keeps one a vector
  }
};

// What the dense kernel reads once for many output channels, and their weights.
typedef Vec Input;
typedef Vec Weight;
inline Input read(const char* x, const int32_t* offsets, int64_t bytes) {
  return *reinterpret_cast<const Vec*>(x + offsets[0] + bytes);
}
inline Weight weight_of(const void* weights, int64_t index) {
  return splat(static_cast<const float*>(weights)[index]);
}
inline void multiply_add(Vec& sum, Weight weight, Input in) { sum += weight * in; }

}  // namespace
