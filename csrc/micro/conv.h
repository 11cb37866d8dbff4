// Convolutions with sparse and with dense weights.
//
// Both micro-kernels keep a tile of outputs in registers and traverse the weights once for it. The
// sparse one keeps Tile::rows x Tile::vectors outputs of one channel and spends one load per
// multiply-add; the dense one keeps the vectors of several channels and shares every load among
// them.
#pragma once

#include <type_traits>

#include "tensor.h"

namespace thinlens {

struct Tile {                   // outputs that a micro-kernel keeps in registers
  int rows, vectors;            // sparse: of one output channel
  int dense_channels;           // dense: so many output channels ...
  int dense_vectors;            // ... and vectors of one row
  int product_channels = 4;     // Winograd: so many output channels ...
  int product_vectors = 3;      // ... and vectors of products
  int int16_rows = 2;           // int16, sparse: of one output channel ...
  int int16_vectors = 3;        // ... so many pairs of vectors
  int int16_dense_vectors = 2;  // int16, dense: the same, of `dense_channels`
};

struct DenseBlock {
  int first_offset, taps;
};

// A block of `tiles` tiles in scratch: the transformed inputs, [position][channel][tile][lane],
// then the products alike; sizes are in floats.
struct WinogradScratch {
  int tiles;
  int channels;                              // output channels whose products are in scratch
  int64_t input_position, product_position;  // from a position to the next
  int64_t products;                          // where they begin
};

// A block of the input in scratch, as words of 16 bits: [row][channel][vector][lane].
struct Int16Block {
  int rows, vectors;              // of outputs; vectors in pairs (micro/int16_conv.h)
  int64_t row, channel;           // bytes from a row, a channel to the next
  int64_t sums;                   // where partial sums begin, in floats
  int above, below, left, right;  // rows and vectors that an output reads beside its own
  float scale;                    // of the input
  int largest;                    // magnitude of an input
  int64_t* saturated;             // counts inputs beyond that
};

struct ConvJob {
  View in, out, residual;  // residual.data is null where nothing is added
  const float* bias;       // out_channels; dense: by position, see `channels`
  const float* slopes;     // by output channel, of the negative side: 1 no activation, 0 ReLU
  int out_channels, shuffle;
  int stride_y, stride_x;
  int rows_above, rows_below;  // rows that an output reads above and below its own
  int rows;                    // of the output, before the pixel shuffle
  int padding_y, padding_x;
  // Sparse: the non-zeros of (group of input channels, output channel), outermost group first.
  const void* nonzeros;   // NonZero or, in bfloat16 and int16, NonZeroPair
  const int32_t* starts;  // channel_groups * out_channels + 1
  int channel_groups;
  int channel_block;  // output channels whose partial sums are kept at a time
  // Dense: blocks of output channels, each with one offset per tap that any of its channels has,
  // and weights [block][tap][channel in the block]; in bfloat16 two taps are one, with two offsets
  // and a pair of weights. `channels` are the output channels by position; -1 fills the last block.
  const int32_t* offsets;
  const void* weights;
  const DenseBlock* blocks;
  const int32_t* channels;
  int block_count;
  // Winograd: `weights` are transformed ones (winograd_weights.h).
  WinogradScratch winograd;
  // int16: as sparse and dense, with pairs of words as weights.
  Int16Block int16;
  const float* int16_scales;  // of sums, by output channel; dense: by position

  auto views() { return std::array{&in, &out, &residual}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::ConvJob;

constexpr thinlens::Tile kTile = THINLENS_TILE;
constexpr int64_t kVectorBytes = kLanes * sizeof(Element);  // in memory

// Where one output channel of a tile is stored, after the pixel shuffle.
struct OutputTile {
  char* out;
  const char* residual;
  int64_t row, vector, residual_row;
  float slope;
  bool fp32_storage;

  OutputTile(const ConvJob& job, int channel, int y, int s) {
    const int r = job.shuffle;
    int c = channel, dy = 0, dx = 0;
    if (r > 1) c = channel / (r * r), dy = channel / r % r, dx = channel % r;
    fp32_storage = job.out.fp32_storage;
    const int64_t bytes = kLanes * int64_t(fp32_storage ? sizeof(float) : sizeof(Element));
    out = job.out.data + (int64_t(y) * r + dy) * job.out.row + c * job.out.channel +
          (int64_t(s) * r + dx) * bytes;
    row = job.out.row * r;
    vector = r * bytes;
    residual = job.residual.data ? job.residual.data + y * job.residual.row +
                                       channel * job.residual.channel + s * kVectorBytes
                                 : nullptr;
    residual_row = job.residual.row;
    slope = job.slopes[channel];
  }

  void put(Vector value, int r, int v) const {
    if (residual)
      value +=
          load(reinterpret_cast<const Element*>(residual + r * residual_row + v * kVectorBytes));
    char* address = out + r * row + v * vector;
    if (fp32_storage)
      store(reinterpret_cast<float*>(address), activate(value, slope));
    else
      store(reinterpret_cast<Element*>(address), activate(value, slope));
  }
};

// Prefetches the input of the next tile, a channel at a time, while this one is computed: the rows
// of many channels are more streams than a hardware prefetcher follows.
class Prefetcher {
 public:
  Prefetcher(const ConvJob& job, const char* next, int rows, int vectors)
      : job_(job), next_(next), rows_(rows), vectors_(vectors) {}

  void advance(int64_t step, int64_t steps) {
    for (; channel_ * steps < step * job_.in.channels; ++channel_, next_ += job_.in.channel)
      for (int r = -job_.rows_above; r < rows_; ++r)
        for (int v = 0; v < vectors_; ++v)
          __builtin_prefetch(next_ + r * job_.in.row + v * kVectorBytes, 0, 2);
  }

 private:
  const ConvJob& job_;
  const char* next_;
  const int rows_, vectors_;
  int64_t channel_ = 0;
};

// Stride is the horizontal one; 0 where it is known only at run time.
template <int Stride>
inline int64_t stride_x(const ConvJob& job) {
  return Stride ? Stride : job.stride_x;
}

// Multiply a row of a tile, and go to the next one. Sets of instructions that load several vectors
// at once have a function multiply_neighbours.
template <int Stride, class Cursor, int V>
inline void multiply_row(Cursor& cursor, Vector (&sums)[V], int64_t column, int64_t row) {
  if constexpr (Stride == 1 && requires { multiply_neighbours(cursor, sums, row); }) {
    multiply_neighbours(cursor, sums, row);
  } else {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) cursor.multiply_add(sums[v], v * column);
    cursor.next_row(row);
  }
}

// Add one group of input channels to output channels [first, last) of a tile.
template <int R, int V, int Stride>
void sparse_group(const ConvJob& job, const char* x, int y, int s, int first, int last, int group,
                  float* sums, Prefetcher& prefetcher) {
  const int64_t row = job.in.row * job.stride_y, column = stride_x<Stride>(job) * kVectorBytes;
  const int64_t steps = int64_t(job.channel_groups) * job.out_channels;
  const int32_t* start = job.starts + int64_t(group) * job.out_channels + first;
  for (int o = first; o < last; ++o, ++start, sums += R * V * kLanes) {
    prefetcher.advance(
        int64_t(first) * job.channel_groups + int64_t(group) * (last - first) + o - first, steps);
    Vector acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        acc[r][v] = group ? load_partial_sum(sums + (r * V + v) * kLanes) : broadcast(job.bias[o]);
    const StoredNonZero* const nonzeros = static_cast<const StoredNonZero*>(job.nonzeros);
    const StoredNonZero* const end = nonzeros + start[1];
    asm("" : "+r"(x));  // keep the sum of its terms
    for (const StoredNonZero* nonzero = nonzeros + start[0]; nonzero != end; ++nonzero) {
      RowCursor cursor(x, *nonzero);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) multiply_row<Stride>(cursor, acc[r], column, row);
    }
    if (group + 1 < job.channel_groups) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store_partial_sum(sums + (r * V + v) * kLanes, acc[r][v]);
      continue;
    }
    const OutputTile tile(job, o, y, s);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) tile.put(acc[r][v], r, v);
  }
}

// The input of the tile at row y and vector s.
inline const char* tile_input(const ConvJob& job, int y, int s) {
  return job.in.data + int64_t(y) * job.stride_y * job.in.row + s * job.stride_x * kVectorBytes;
}

template <int R, int V, int Stride>
void sparse_tile(const ConvJob& job, int y, int s, const char* next, float* partial_sums) {
  const char* x = tile_input(job, y, s);
  Prefetcher prefetcher(job, next, (R - 1) * job.stride_y + 1 + job.rows_below,
                        V * int(stride_x<Stride>(job)));
  for (int first = 0; first < job.out_channels; first += job.channel_block) {
    const int last =
        first + job.channel_block < job.out_channels ? first + job.channel_block : job.out_channels;
    for (int group = 0; group < job.channel_groups; ++group)
      sparse_group<R, V, Stride>(job, x, y, s, first, last, group, partial_sums, prefetcher);
  }
}

template <int V, int Stride>
void dense_tile(const ConvJob& job, int y, int s) {
  constexpr int block = kTile.dense_channels;
  const char* x = tile_input(job, y, s);
  const int64_t column = stride_x<Stride>(job) * kVectorBytes;
  int64_t w = 0;
  for (int i = 0; i < job.block_count; ++i) {
    const int32_t* offsets = job.offsets + job.blocks[i].first_offset;
    Vector acc[block][V];
#pragma GCC unroll 8
    for (int b = 0; b < block; ++b)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[b][v] = broadcast(job.bias[i * block + b]);
    for (int t = 0; t < job.blocks[i].taps; ++t, w += block) {
      const WeightBlock<block> weights(job.weights, w);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Input in = load_input(x, offsets + t * kFusedWeights, v * column);
#pragma GCC unroll 8
        for (int b = 0; b < block; ++b) weights.multiply_add(acc[b][v], b, in);
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < block; ++b) {
      const int channel = job.channels[i * block + b];
      if (channel < 0) break;
      const OutputTile tile(job, channel, y, s);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) tile.put(acc[b][v], 0, v);
    }
  }
}

// Call `visit` with `size`, one of Min..Max, as a constant.
template <int Min, int Max, class Visit>
void dispatch_constant(int size, Visit visit) {
  if constexpr (Min < Max) {
    if (size < Max) return dispatch_constant<Min, Max - 1>(size, visit);
  }
  visit(std::integral_constant<int, Max>{});
}

// Visit the first vector of each tile of a row, its number of vectors, and the first of the next
// tile (0 after the last). Tiles differ by one vector at most, so that no vector is computed twice.
template <int Max, class Visit>
void for_each_tile(int row_vectors, Visit visit) {
  const int tiles = (row_vectors + Max - 1) / Max;
  for (int i = 0, s = 0; i < tiles; ++i) {
    const int next = row_vectors * (i + 1) / tiles;
    dispatch_constant<1, Max>(next - s,
                              [&](auto vectors) { visit(s, vectors, i + 1 < tiles ? next : 0); });
    s = next;
  }
}

template <int Stride>
void sparse_rows(const ConvJob& job, int begin, int end, float* scratch) {
  for (int y = begin; y < end; y += kTile.rows)
    dispatch_constant<1, kTile.rows>(end - y < kTile.rows ? end - y : kTile.rows, [&](auto rows) {
      for_each_tile<kTile.vectors>(
          job.out.row_vectors / job.shuffle, [&](int s, auto vectors, int next) {
            const char* next_input = tile_input(job,
                                                next                  ? y
                                                : y + rows < job.rows ? y + rows
                                                                      : y,
                                                next);
            sparse_tile<rows.value, vectors.value, Stride>(job, y, s, next_input, scratch);
          });
    });
}

void finish_shuffled_rows(const ConvJob& job, int begin, int end) {
  const int r = job.shuffle;
  for (int y = begin * r; y < end * r; ++y)
    for (int c = 0; c < job.out_channels / (r * r); ++c) finish_row(job.out, y, c);
  finish_halo_rows(job.out, begin * r, end * r);
}

// scratch: the partial sums of a tile of `channel_block` output channels.
void run_sparse_conv(const ConvJob& job, int begin, int end, float* scratch) {
  if (job.stride_x == 1)
    sparse_rows<1>(job, begin, end, scratch);
  else if (job.stride_x == 2)
    sparse_rows<2>(job, begin, end, scratch);
  else
    sparse_rows<0>(job, begin, end, scratch);
  finish_shuffled_rows(job, begin, end);
}

void run_dense_conv(const ConvJob& job, int begin, int end, float*) {
  for (int y = begin; y < end; ++y)
    for_each_tile<kTile.dense_vectors>(job.out.row_vectors / job.shuffle,
                                       [&](int s, auto vectors, int) {
                                         if (job.stride_x == 1)
                                           dense_tile<vectors.value, 1>(job, y, s);
                                         else if (job.stride_x == 2)
                                           dense_tile<vectors.value, 2>(job, y, s);
                                         else
                                           dense_tile<vectors.value, 0>(job, y, s);
                                       });
  finish_shuffled_rows(job, begin, end);
}

}  // namespace
#endif
