// The memory layout of tensors: width-strided lanes ("SL").
//
// With L lanes and S = `row_vectors` vectors per row, lane l of vector s holds image column l * S +
// s. The neighbour of a whole vector to the left or right is then the next *aligned* vector. A
// tensor is [row][channel][vector][lane] with `halo` vectors before and after each row and `halo`
// rows above and below; columns past the width, and everything outside the image, are zero.
#pragma once

#include <array>
#include <cstdint>

namespace thinlens {

constexpr int64_t kCacheLine = 64;  // bytes

struct Shape {  // a tensor's sizes and how its rows are stored
  int channels, height, width, row_vectors, halo;
  bool fp32_storage;  // float32, whatever the kernels store; only for a network's output
};

struct LineBuffer {  // a tensor of which only some rows are in memory at a time
  int rows;          // of them, the halo's included; 0: the whole tensor
  int copies;        // of the buffer, one for each strip
  int wrap;  // row y lies where row y - wrap did, and rows from `wrap` on repeat the first ones;
             // 0: rows that are still needed are moved to the buffer's beginning
};

struct Slice {  // `channels` channels of a tensor, from `first` on
  int tensor, first, channels;
};

constexpr Slice kNoSlice{-1, 0, 0};

struct View {            // where a slice is in memory
  char* data = nullptr;  // row 0, first channel, vector 0
  int64_t row = 0;       // bytes from a row to the next
  int64_t channel = 0;   // bytes from a channel to the next
  int channels = 0, height = 0, width = 0, row_vectors = 0, halo = 0;
  bool fp32_storage = false;  // stores float32 although the kernels store less
  Slice slice = kNoSlice;
};

}  // namespace thinlens
