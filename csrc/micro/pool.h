// Max pooling over windows of any size and place.
#pragma once

#include "tensor.h"

namespace thinlens {

struct PoolJob {
  View in, out;
  // By output row, and by output column, where its window begins, and before where it ends.
  const int32_t *row_begins, *row_ends, *column_begins, *column_ends;

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
        Vector best = load(row_of(job.in, job.row_begins[y], c) + s * kLanes);
        for (int row = job.row_begins[y] + 1; row < job.row_ends[y]; ++row)
          best = maximum(best, load(row_of(job.in, row, c) + s * kLanes));
        alignas(64) Element lanes[kLanes];
        store(lanes, best);
        for (int l = 0; l < kLanes; ++l)
          if (l * S + s < width) column_maxima[l * S + s] = to_float(lanes[l]);
      }
      for (int x = 0; x < job.out.width; ++x) {
        float best = column_maxima[job.column_begins[x]];
        for (int column = job.column_begins[x] + 1; column < job.column_ends[x]; ++column) {
          const float next = column_maxima[column];
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
