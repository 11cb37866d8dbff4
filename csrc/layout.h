// What does a tensor look like in memory, and what is a kernel told to do?
//
// Width-strided lanes ("SL"): with L lanes and S = `columns` vectors a row, lane l of vector s holds
// image column l * S + s. A step to the left or right is then the next *aligned* vector. A tensor is
// [row][channel][vector][lane] with `halo` vectors before and after each row and `halo` rows above
// and below; columns past the width, and everything outside the image, are zero.
#pragma once

#include <cstdint>
#include <cstring>

namespace thinlens {

struct View {            // some channels of a tensor
  char* data = nullptr;  // row 0, first channel, vector 0
  int64_t row = 0;       // bytes from a row to the next
  int64_t channel = 0;   // bytes from a channel to the next
  int channels = 0, height = 0, width = 0, columns = 0, halo = 0;
  bool wide = false;  // holds floats, where the kernels store less
};

struct Entry {     // one living weight
  int32_t offset;  // bytes from the output's place in the input to what it multiplies
  float weight;
};

struct Pair {  // two living weights in bfloat16, the first in the lower half
  int32_t first, second;
  uint32_t weights;
};

inline uint16_t rounded(float value) {  // to the nearest bfloat16, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return uint16_t(bits >> 16 | 0x40);  // NaN stays NaN
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct ConvJob {
  View in, out, residual;  // residual.data is null where nothing is added
  const float* bias;       // c_out, after padding to whole blocks of output channels
  float slope;             // of the negative side: 1 nothing, 0 ReLU
  int c_out, stride, shuffle;
  int above, below;  // rows that an output reads above and below its own
  int last;          // output rows there are (before the shuffle)
  // Sparse: entries of (group of input channels, output channel), outermost group first.
  const void* entries;  // of Entry or, in bfloat16, of Pair
  const int32_t* starts;  // groups * c_out + 1
  int groups;
  int together;  // output channels whose partial sums are kept at a time
  // Dense: one offset a tap, weights [block of output channels][tap][channel in the block]; in
  // bfloat16 two taps are one, with two offsets and a pair of weights.
  const int32_t* offsets;
  const void* weights;
  int taps;
};

struct CombineJob {    // out = act(alpha x + beta y + shift), or x sigmoid(y)
  View x, y, out;      // y.data is null where there is no second term
  const float* shift;  // by channel
  float alpha, beta, slope;
  bool gate;
};

struct PoolJob {  // maximum over size x size windows, no padding
  View in, out;
  int size, stride;
};

struct Along {         // one axis of a resize, which may be a part of a larger one
  int start, whole;    // the output's first place, of how many in all
  int first, samples;  // the input's first sample, of how many in all
};

struct ResizeJob {  // bilinear, half-pixel centres
  View in, out;
  Along rows, columns;
};

struct PackJob {  // from or to plain rows [channel][height][width]
  View view;
  const float* source;  // packing: repeats its last row and column up to the view's size
  float* target;        // unpacking: takes its first rows and columns
  int height, width;    // of the plain image
};

// One instruction set's kernels. `scratch` is the thread's own; a row range is [begin, end) of the
// output (before the shuffle), and every output row is finished, halo included, by one call.
struct Kernels {
  const char* name;
  int lanes;
  int bytes;          // of a stored value
  int rows;           // rows that a convolution tile covers
  int block;          // output channels that the dense kernel computes together
  int vectors;        // vectors that a tile covers
  int merged;         // living weights that one multiply-add takes: 2 make a Pair
  void (*sparse)(const ConvJob&, int begin, int end, float* scratch);
  void (*dense)(const ConvJob&, int begin, int end, float* scratch);
  void (*combine)(const CombineJob&, int begin, int end, float* scratch);
  void (*pool)(const PoolJob&, int begin, int end, float* scratch);
  void (*resize)(const ResizeJob&, int begin, int end, float* scratch);
  void (*pack)(const PackJob&, int begin, int end, float* scratch);
  void (*unpack)(const PackJob&, int begin, int end, float* scratch);
  // Yardsticks (see ceiling.h).
  int64_t flops_a_step;
  float (*multiply_adds)(int64_t steps, float value);
  void (*scale)(const float* from, float* to, int64_t floats, float value);
};

extern const Kernels kernels_baseline;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;

}  // namespace thinlens
