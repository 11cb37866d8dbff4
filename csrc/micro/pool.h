// Max pooling without padding.
#pragma once

#include "tensor.h"

namespace thinlens {

struct PoolJob {  // maximum over windows of size x size
  View in, out;
  int size, stride;

  auto views() { return std::array{&in, &out}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::PoolJob;

// scratch: a plain row of the input's width, and one of the output's.
void run_max_pool(const PoolJob& job, int begin, int end, float* scratch) {
  const int width = job.in.width;
  float* column_maxima = scratch;  // down each window
  float* plain = scratch + job.in.row_vectors * kLanes;
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.out.channels; ++c) {
      const int S = job.in.row_vectors;
      for (int s = 0; s < S; ++s) {
        Vector best = load(row_of(job.in, y * job.stride, c) + s * kLanes);
        for (int k = 1; k < job.size; ++k)
          best = maximum(best, load(row_of(job.in, y * job.stride + k, c) + s * kLanes));
        alignas(64) Element lanes[kLanes];
        store(lanes, best);
        for (int l = 0; l < kLanes; ++l)
          if (l * S + s < width) column_maxima[l * S + s] = to_float(lanes[l]);
      }
      for (int x = 0; x < job.out.width; ++x) {
        float best = column_maxima[x * job.stride];
        for (int k = 1; k < job.size; ++k) {
          const float next = column_maxima[x * job.stride + k];
          best = best >= next || best != best ? best : next;
        }
        plain[x] = best;
      }
      row_to_lanes(plain, row_of(job.out, y, c), job.out.width, job.out.row_vectors);
      finish_row(job.out, y, c);
    }
  finish_halo_rows(job.out, begin, end);
}

}  // namespace
#endif
