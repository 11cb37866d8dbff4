// Resampling by tables: every output is a weighted sum of some rows and columns of the input.
//
// One tap of weight 1 per row and column is an index map: padding, cropping, slicing, or repeating.
#pragma once

#include "tensor.h"

namespace thinlens {

struct ResampleJob {
  View in, out;
  // By output row: rows of the input and their weights; -1, in an index map only: `fill`.
  const int32_t* rows;
  const float* row_weights;
  int row_taps;
  // By tap and output column in the order of a row in memory, its last vectors filled up: where in
  // a row of the input a column is.
  const int32_t* columns;
  const float* column_weights;
  int column_taps;
  bool is_index_map;
  const int32_t*
      vectors;  // of an index map, by vector of a row: the input's vector that it is, or -1
  float fill;

  auto views() { return std::array{&in, &out}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::ResampleJob;

inline void map_row(const ResampleJob& job, int y, int c) {
  Element* to = row_of(job.out, y, c);
  const Element fill = to_element(job.fill);
  const int count = job.out.row_vectors * kLanes;
  if (job.rows[y] < 0) {
    for (int i = 0; i < count; ++i) to[i] = fill;
    return;
  }
  const Element* from = row_of(job.in, job.rows[y], c);
  const int32_t* columns = job.columns;
  for (int s = 0; s < count; s += kLanes) {
    const int vector = job.vectors[s / kLanes];
    if (vector >= 0)
      store_stored(to + s, load_stored(from + int64_t(vector) * kLanes));
    else
      for (int i = s; i < s + kLanes; ++i) to[i] = columns[i] < 0 ? fill : from[columns[i]];
  }
}

// mixed: a row of the input's vectors.
inline void weighted_row(const ResampleJob& job, int y, int c, float* mixed) {
  const int32_t* rows = job.rows + int64_t(y) * job.row_taps;
  const float* weights = job.row_weights + int64_t(y) * job.row_taps;
  for (int i = 0; i < job.in.row_vectors * kLanes; i += kLanes) {
    Vector sum = load(row_of(job.in, rows[0], c) + i) * weights[0];
    for (int t = 1; t < job.row_taps; ++t) sum += load(row_of(job.in, rows[t], c) + i) * weights[t];
    store(mixed + i, sum);
  }
  const int count = job.out.row_vectors * kLanes;
  Element* to = row_of(job.out, y, c);
  for (int s = 0; s < count; s += kLanes) {
    float sums[kLanes] = {};
    for (int t = 0; t < job.column_taps; ++t) {
      const int32_t* columns = job.columns + int64_t(t) * count + s;
      const float* column_weights = job.column_weights + int64_t(t) * count + s;
      for (int l = 0; l < kLanes; ++l) sums[l] += column_weights[l] * mixed[columns[l]];
    }
    for (int l = 0; l < kLanes; ++l) to[s + l] = to_element(sums[l]);
  }
}

// scratch: a row of the input's vectors.
void run_resample(const ResampleJob& job, int begin, int end, float* scratch) {
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.out.channels; ++c) {
      if (job.is_index_map)
        map_row(job, y, c);
      else
        weighted_row(job, y, c, scratch);
      finish_row(job.out, y, c);
    }
  finish_halo_rows(job.out, begin, end);
}

}  // namespace
#endif
