// Bilinear resizing with half-pixel centres.
#pragma once

#include "tensor.h"

namespace thinlens {

struct AxisPlacement {      // of a tile along one axis of a resize of a larger image
  int out_first, out_size;  // the tile's first output sample, and the image's number of them
  int in_first, in_size;    // the same of the input
};

struct Placement {
  AxisPlacement rows, columns;
};

struct ResizeJob {
  View in, out;
  Placement placement;

  auto views() { return std::array{&in, &out}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::AxisPlacement;
using thinlens::ResizeJob;

struct Interpolation {  // between two samples
  int low, high;
  float weight;  // of `high`
};

inline int clamp_index(int sample, int count) {
  return sample < 0 ? 0 : sample < count ? sample : count - 1;
}

// Samples are clamped to the `count` that the tile has.
inline Interpolation interpolation(int index, const AxisPlacement& a, int count) {
  float position = (a.out_first + index + 0.5f) * (float(a.in_size) / float(a.out_size)) - 0.5f;
  if (position < 0) position = 0;
  const int low = int(position) < a.in_size - 1 ? int(position) : a.in_size - 1;
  const int high = low + 1 < a.in_size ? low + 1 : low;
  return {clamp_index(low - a.in_first, count), clamp_index(high - a.in_first, count),
          position - float(low)};
}

// scratch: a plain row of the input's width, one in the strided layout, and by place of an output
// row the columns that it mixes, and the weight of the second one.
void run_resize(const ResizeJob& job, int begin, int end, float* scratch) {
  const View &in = job.in, &out = job.out;
  const int places = out.row_vectors * kLanes;
  float* plain = scratch;
  Element* mixed = reinterpret_cast<Element*>(scratch + in.row_vectors * kLanes);
  float* weights = scratch + 2 * in.row_vectors * kLanes;
  int* low_columns = reinterpret_cast<int*>(weights + places);
  int* high_columns = low_columns + places;
  for (int place = 0; place < places; ++place) {
    const int column = place % kLanes * out.row_vectors + place / kLanes;
    // finish_row zeroes what is past the width.
    const Interpolation x =
        interpolation(column < out.width ? column : out.width - 1, job.placement.columns, in.width);
    low_columns[place] = x.low, high_columns[place] = x.high, weights[place] = x.weight;
  }
  for (int y = begin; y < end; ++y) {
    const Interpolation rows = interpolation(y, job.placement.rows, in.height);
    for (int c = 0; c < out.channels; ++c) {
      const Element *low = row_of(in, rows.low, c), *high = row_of(in, rows.high, c);
      for (int i = 0; i < in.row_vectors * kLanes; i += kLanes)
        store(mixed + i, load(low + i) * (1.0f - rows.weight) + load(high + i) * rows.weight);
      lanes_to_row(mixed, plain, in.width, in.row_vectors);
      Element* to = row_of(out, y, c);
      for (int i = 0; i < places; ++i)
        to[i] = to_element(plain[low_columns[i]] * (1.0f - weights[i]) +
                           plain[high_columns[i]] * weights[i]);
      finish_row(out, y, c);
    }
  }
  finish_halo_rows(out, begin, end);
}

}  // namespace
#endif
