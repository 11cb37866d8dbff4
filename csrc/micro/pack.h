// Conversion of images from and to the strided layout.
#pragma once

#include "tensor.h"

namespace thinlens {

struct PackJob {  // from an image in any order
  View out;       // larger than the image: its last row and column are repeated
  const float* image;
  int height, width;             // of the image
  int64_t channel, row, column;  // strides of the image, in values

  auto views() { return std::array{&out}; }
};

struct UnpackJob {  // to an image in any order
  View in;          // larger than the image: its first rows and columns are taken
  float* image;
  int height, width;
  int64_t channel, row, column;

  auto views() { return std::array{&in}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include <algorithm>

#include "rows.h"

namespace {

using thinlens::PackJob;
using thinlens::UnpackJob;

// Channels whose rows are gathered together where a pixel's channels are next to each other: those
// of a cache line.
constexpr int kPackChannels = 16;

// scratch: kPackChannels plain rows.
void run_pack(const PackJob& job, int begin, int end, float* scratch) {
  const View& to = job.out;
  for (int y = begin; y < end; ++y) {
    const int image_y = y < job.height ? y : job.height - 1;
    const float* row = job.image + image_y * job.row;
    for (int first = 0; first < to.channels; first += kPackChannels) {
      const int count = std::min(kPackChannels, to.channels - first);
      const bool plain = job.column == 1 && job.width >= to.width;
      if (!plain) {
        for (int x = 0; x < to.width; ++x) {
          const float* pixel = row + (x < job.width ? x : job.width - 1) * job.column;
          for (int c = 0; c < count; ++c)
            scratch[int64_t(c) * to.width + x] = pixel[(first + c) * job.channel];
        }
      }
      for (int c = 0; c < count; ++c) {
        const float* values =
            plain ? row + (first + c) * job.channel : scratch + int64_t(c) * to.width;
        row_to_lanes(values, row_of(to, y, first + c), to.width, to.row_vectors);
        finish_row(to, y, first + c);
      }
    }
  }
  finish_halo_rows(to, begin, end);
}

// scratch: kPackChannels plain rows.
void run_unpack(const UnpackJob& job, int begin, int end, float* scratch) {
  const View& from = job.in;
  const bool plain = job.column == 1;
  for (int y = begin; y < end && y < job.height; ++y) {
    float* row = job.image + y * job.row;
    for (int first = 0; first < from.channels; first += kPackChannels) {
      const int count = std::min(kPackChannels, from.channels - first);
      for (int c = 0; c < count; ++c) {
        float* values = plain ? row + (first + c) * job.channel : scratch + int64_t(c) * job.width;
        if (from.fp32_storage)
          lanes_to_row(row_of<float>(from, y, first + c), values, job.width, from.row_vectors);
        else
          lanes_to_row(row_of(from, y, first + c), values, job.width, from.row_vectors);
      }
      if (plain) continue;
      for (int x = 0; x < job.width; ++x) {
        float* pixel = row + x * job.column;
        for (int c = 0; c < count; ++c)
          pixel[(first + c) * job.channel] = scratch[int64_t(c) * job.width + x];
      }
    }
  }
}

}  // namespace
#endif
