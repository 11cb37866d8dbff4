// Conversion of images from and to the strided layout.
#pragma once

#include "tensor.h"

namespace thinlens {

struct PackJob {  // from plain rows [channel][height][width]
  View out;       // larger than the image: its last row and column are repeated
  const float* image;
  int height, width;  // of the image

  auto views() { return std::array{&out}; }
};

struct UnpackJob {  // to plain rows
  View in;          // larger than the image: its first rows and columns are taken
  float* image;
  int height, width;

  auto views() { return std::array{&in}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::PackJob;
using thinlens::UnpackJob;

// scratch: a plain row.
void run_pack(const PackJob& job, int begin, int end, float* scratch) {
  const View& to = job.out;
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < to.channels; ++c) {
      const int image_y = y < job.height ? y : job.height - 1;
      const float* plain = job.image + (int64_t(c) * job.height + image_y) * job.width;
      if (job.width < to.width) {
        std::memcpy(scratch, plain, job.width * sizeof(float));
        for (int x = job.width; x < to.width; ++x) scratch[x] = plain[job.width - 1];
        plain = scratch;
      }
      row_to_lanes(plain, row_of(to, y, c), to.width, to.row_vectors);
      finish_row(to, y, c);
    }
  finish_halo_rows(to, begin, end);
}

void run_unpack(const UnpackJob& job, int begin, int end, float*) {
  const View& from = job.in;
  for (int y = begin; y < end && y < job.height; ++y)
    for (int c = 0; c < from.channels; ++c) {
      float* plain = job.image + (int64_t(c) * job.height + y) * job.width;
      if (from.fp32_storage)
        lanes_to_row(row_of<float>(from, y, c), plain, job.width, from.row_vectors);
      else
        lanes_to_row(row_of(from, y, c), plain, job.width, from.row_vectors);
    }
}

}  // namespace
#endif
