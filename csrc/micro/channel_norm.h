// Layer normalization over channels: each pixel's values with mean 0 and variance 1.
#pragma once

#include "tensor.h"

namespace thinlens {

struct ChannelNormJob {  // weight (x - mean) / sqrt(variance + epsilon) + bias
  View in, out;
  const float *weight, *bias;  // by channel
  float epsilon;

  auto views() { return std::array{&in, &out}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::ChannelNormJob;

// Normalize N vectors of row y, from vector s on.
template <int N, class Out>
void normalize_vectors(const ChannelNormJob& job, int y, int s) {
  Vector minus_mean[N], scale[N];
  const float one_part = 1.0f / float(job.in.channels);
  const auto for_each = [&](auto visit) {
    for (int c = 0; c < job.in.channels; ++c) {
      const Element* x = row_of<const Element>(job.in, y, c) + s * kLanes;
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) visit(c, v, load(x + v * kLanes));
    }
  };
  for (int v = 0; v < N; ++v) minus_mean[v] = broadcast(0.0f);
  for_each([&](int, int v, Vector value) { minus_mean[v] += value; });
  for (int v = 0; v < N; ++v) minus_mean[v] *= broadcast(-one_part), scale[v] = broadcast(0.0f);
  for_each([&](int, int v, Vector value) {
    const Vector deviation = value + minus_mean[v];
    scale[v] += deviation * deviation;
  });
  for (int v = 0; v < N; ++v) scale[v] = inverse_square_root(scale[v] * one_part + job.epsilon);
  for_each([&](int c, int v, Vector value) {
    const Vector result = (value + minus_mean[v]) * scale[v] * job.weight[c] + job.bias[c];
    store(row_of<Out>(job.out, y, c) + (s + v) * kLanes, result);
  });
}

template <class Out>
void normalize_row(const ChannelNormJob& job, int y) {
  int s = 0;
  for (; s + 4 <= job.out.row_vectors; s += 4) normalize_vectors<4, Out>(job, y, s);
  for (; s < job.out.row_vectors; ++s) normalize_vectors<1, Out>(job, y, s);
}

void run_channel_norm(const ChannelNormJob& job, int begin, int end, float*) {
  for (int y = begin; y < end; ++y) {
    if (!kStoresFloats && job.out.fp32_storage)
      normalize_row<float>(job, y);
    else
      normalize_row<Element>(job, y);
    for (int c = 0; c < job.out.channels; ++c) finish_row(job.out, y, c);
  }
  finish_halo_rows(job.out, begin, end);
}

}  // namespace
#endif
