// Multiplication of float32 by NEON: what storage_fp32.h takes from the set of instructions.
//
// An instruction has no operand in memory here, so loads are instructions of their own: up to four
// neighbouring vectors are loaded by one, and weights are multiplied as elements of a register.
#pragma once

#include <arm_neon.h>

namespace {

inline void fuse_multiply_add(Vector& sum, Vector in, float32x2_t weights) {  // by the second one
  sum = vfmaq_lane_f32(sum, in, weights, 1);
}

// One non-zero weight, multiplied with its inputs row by row.
struct RowCursor {
  const char* p;
  const float32x2_t weight;  // behind its offset

  RowCursor(const char* x, const StoredNonZero& nonzero)
      : p(x + nonzero.offset), weight(vld1_f32(reinterpret_cast<const float*>(&nonzero))) {}
  void multiply_add(Vector& sum, int64_t bytes) const {
    fuse_multiply_add(sum, *reinterpret_cast<const Vector*>(p + bytes), weight);
  }
  void next_row(int64_t row) {
    p += row;
    asm("" : "+r"(p));  // keep one pointer; else the compiler keeps one per row
  }
  // Let what is loaded from p follow a sum: no register is free for what is loaded in advance.
  void follow(const Vector& sum) { asm("" : "+r"(p) : "w"(sum)); }
};

template <int N, class Loaded>
inline void multiply_loaded(RowCursor& cursor, Vector* sums, const Loaded& in) {
#pragma GCC unroll 4
  for (int v = 0; v < N; ++v) fuse_multiply_add(sums[v], in.val[v], cursor.weight);
#pragma GCC unroll 4
  for (int v = 0; v < N; ++v) cursor.follow(sums[v]);
}

// Multiply the neighbouring vectors of a row, and go to the next row.
template <int First = 0, int V>
inline void multiply_neighbours(RowCursor& cursor, Vector (&sums)[V], int64_t row) {
  constexpr int count = V - First < 4 ? V - First : 4;
  constexpr bool is_last = First + count == V;
  const float* in = reinterpret_cast<const float*>(cursor.p);
  const int64_t bytes = count * int64_t(sizeof(Vector));
  cursor.p += is_last ? row : bytes;
  if constexpr (count == 4)
    multiply_loaded<4>(cursor, sums + First, vld1q_f32_x4(in));
  else if constexpr (count == 3)
    multiply_loaded<3>(cursor, sums + First, vld1q_f32_x3(in));
  else if constexpr (count == 2)
    multiply_loaded<2>(cursor, sums + First, vld1q_f32_x2(in));
  else
    fuse_multiply_add(sums[First], vld1q_f32(in), cursor.weight);
  if constexpr (!is_last) multiply_neighbours<First + count>(cursor, sums, row - bytes);
}

// What the dense micro-kernel loads once for many output channels, and their weights.
typedef Vector Input;
inline Input load_input(const char* x, const int32_t* offsets, int64_t bytes) {
  return *reinterpret_cast<const Vector*>(x + offsets[0] + bytes);
}

template <int N>
struct WeightBlock {
  const Factors<N> factors;

  WeightBlock(const void* weights, int64_t index)
      : factors(static_cast<const float*>(weights) + index) {}
  void multiply_add(Vector& sum, int i, Input in) const { factors.multiply_add(sum, i, in); }
};

}  // namespace
