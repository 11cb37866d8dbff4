// Convolutions with pairs of 16-bit integers, whose products are summed up in 32 bits.
//
// Tensors stay in float32: a block of the input is converted in scratch, times a scale that maps
// its range to the integers. A vector of words holds two vectors of a row, s and s + S / 2 of S, so
// that neighbours stay whole vectors apart. Words of any two inputs are interleaved as they are
// loaded, and multiplied with a pair of weights. The weights are so small that no sum overflows
// (int16_weights.cpp); inputs beyond the range are saturated and counted.
#pragma once

#include "conv.h"

#ifdef THINLENS_FLOATS
#include "int16_pairs.h"

namespace {

using thinlens::Int16Block;
typedef thinlens::NonZeroPair WordPair;

constexpr int64_t kWordBytes = kFloats * sizeof(float);  // of a vector of words

// Vectors of an output's row, before the pixel shuffle.
inline int output_vectors(const ConvJob& job) { return job.out.row_vectors / job.shuffle; }
// Vectors from the first of a pair to the second.
inline int pair_distance(const ConvJob& job) { return output_vectors(job) / 2; }

struct BlockOutputs {  // of a block, in rows and in pairs of vectors
  int y, rows, s, vectors;
};

// The input of a block of outputs, as floats.
struct BlockInput {
  const char* first;
  int64_t second;  // bytes from a pair's first vector to its second
  int rows, vectors;

  BlockInput(const ConvJob& job, const BlockOutputs& block) {
    const Int16Block& in = job.int16;
    first = job.in.data + (int64_t(block.y) * job.stride_y - in.above) * job.in.row +
            (int64_t(block.s) * job.stride_x - in.left) * kWordBytes;
    second = int64_t(pair_distance(job)) * job.stride_x * kWordBytes;
    rows = (block.rows - 1) * job.stride_y + 1 + in.above + in.below;
    vectors = (block.vectors - 1) * job.stride_x + 1 + in.left + in.right;
  }
};

inline Floats scaled_input(const char* p, float scale) {
  return load_floats(reinterpret_cast<const float*>(p)) * scale;
}

// Count the values of a block, without its margins, that are not between -largest and largest.
int64_t count_saturated(const ConvJob& job, const BlockOutputs& block, const BlockInput& in) {
  const Int16Block& to = job.int16;
  const float most = float(to.largest) + 0.5f;
  int64_t vectors = 0;
  Ints inside{};  // by lane, the values that are; NaN is not
  for (int r = 0; r < block.rows * job.stride_y && r + to.above < in.rows; ++r)
    for (int c = 0; c < job.in.channels; ++c)
      for (int v = 0; v < block.vectors * job.stride_x && v + to.left < in.vectors; ++v) {
        const char* p = in.first + (r + to.above) * job.in.row + c * job.in.channel +
                        (v + to.left) * kWordBytes;
        const bool twice = block.s + v / job.stride_x + pair_distance(job) <
                           output_vectors(job) - pair_distance(job);  // an odd row's middle
        for (int half = 0; half < (twice ? 1 : 2); ++half) {
          const Floats x = scaled_input(p + half * in.second, to.scale);
          inside -= x <= most && x >= -most;
          ++vectors;
        }
      }
  int64_t count = vectors * kFloats;
  for (int l = 0; l < kFloats; ++l) count -= inside[l];
  return count;
}

// Convert the input of a block to words: [row][channel][vector].
void convert_block(const ConvJob& job, const BlockOutputs& block, char* words) {
  const Int16Block& to = job.int16;
  const BlockInput in(job, block);
  const float scale = to.scale, largest = float(to.largest);
  Words most{}, least{};
  for (int r = 0; r < in.rows; ++r)
    for (int c = 0; c < job.in.channels; ++c) {
      const char* p = in.first + r * job.in.row + c * job.in.channel;
      char* q = words + r * to.row + c * to.channel;
      for (int v = 0; v < in.vectors; ++v, p += kWordBytes, q += kWordBytes) {
        const Words x =
            to_words(scaled_input(p, scale), scaled_input(p + in.second, scale), largest);
        store_words(q, x);
        most = maximum(most, x), least = minimum(least, x);
      }
    }
  bool saturated = false;
  for (int i = 0; i < kWords; ++i) saturated |= most[i] >= to.largest || least[i] <= -to.largest;
  if (saturated)
    __atomic_fetch_add(to.saturated, count_saturated(job, block, in), __ATOMIC_RELAXED);
}

// Where the outputs of a channel's tile are stored: those of the first vectors and of the second.
struct PairTile {
  OutputTile low, high;
  float scale, bias;

  PairTile(const ConvJob& job, int channel, int y, int s, float scale_, float bias_)
      : low(job, channel, y, s),
        high(job, channel, y, s + pair_distance(job)),
        scale(scale_),
        bias(bias_) {}

  void put(Ints low_sum, Ints high_sum, int r, int v) const {
    put_vector(low, __builtin_convertvector(low_sum, Floats) * scale + bias, r, v);
    put_vector(high, __builtin_convertvector(high_sum, Floats) * scale + bias, r, v);
  }

  template <class V>  // nothing where the kernels do not store floats: they have no such step
  static void put_vector(const OutputTile& tile, V value, int r, int v) {
    if constexpr (sizeof(V) == sizeof(Vector)) tile.put(value, r, v);
  }
};

// Two non-zero weights, multiplied with their inputs row by row.
struct WordCursor {
  const char *p, *q;
  const Ints weights;

  WordCursor(const char* x, const WordPair& pair)
      : p(x + pair.first), q(x + pair.second), weights(broadcast_ints(int32_t(pair.weights))) {}
  void multiply_add(Ints& low, Ints& high, int64_t bytes) const {
    Words a = load_words(p + bytes), b = load_words(q + bytes);
    keep_in_registers(a, b);
    add_products(low, high, pair_words(a, b), weights);
  }
  void next_row(int64_t row) {
    p += row, q += row;
    asm("" : "+r"(p), "+r"(q));  // as in storage_fp32.h
  }
};

// Add one group of input channels to output channels [first, last) of a tile, whose input is at x.
template <int R, int V, int Stride>
void int16_sparse_group(const ConvJob& job, const char* x, int y, int s, int first, int last,
                        int group, int32_t* sums) {
  const int64_t row = job.int16.row * job.stride_y, column = stride_x<Stride>(job) * kWordBytes;
  const int32_t* start = job.starts + int64_t(group) * job.out_channels + first;
  for (int o = first; o < last; ++o, ++start, sums += R * V * kWords) {
    Ints low[R][V], high[R][V];
    Ints* const partial = reinterpret_cast<Ints*>(sums);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        low[r][v] = group ? partial[2 * (r * V + v)] : Ints{};
        high[r][v] = group ? partial[2 * (r * V + v) + 1] : Ints{};
      }
    const WordPair* const pairs = static_cast<const WordPair*>(job.nonzeros);
    const WordPair* const end = pairs + start[1];
    for (const WordPair* pair = pairs + start[0]; pair != end; ++pair) {
      WordCursor cursor(x, *pair);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r, cursor.next_row(row))
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) cursor.multiply_add(low[r][v], high[r][v], v * column);
    }
    if (group + 1 < job.channel_groups) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          partial[2 * (r * V + v)] = low[r][v];
          partial[2 * (r * V + v) + 1] = high[r][v];
        }
      continue;
    }
    const PairTile tile(job, o, y, s, job.int16_scales[o], job.bias[o]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) tile.put(low[r][v], high[r][v], r, v);
  }
}

template <int R, int V, int Stride>
void int16_sparse_tile(const ConvJob& job, const char* x, int y, int s, int32_t* sums) {
  for (int first = 0; first < job.out_channels; first += job.channel_block) {
    const int last =
        first + job.channel_block < job.out_channels ? first + job.channel_block : job.out_channels;
    for (int group = 0; group < job.channel_groups; ++group)
      int16_sparse_group<R, V, Stride>(job, x, y, s, first, last, group, sums);
  }
}

template <int V, int Stride>
void int16_dense_tile(const ConvJob& job, const char* x, int y, int s) {
  constexpr int block = kTile.dense_channels;
  const int64_t column = stride_x<Stride>(job) * kWordBytes;
  const int32_t* weights = static_cast<const int32_t*>(job.weights);
  for (int i = 0; i < job.block_count; ++i) {
    const int32_t* offsets = job.offsets + job.blocks[i].first_offset;
    Ints low[block][V] = {}, high[block][V] = {};
    for (int t = 0; t < job.blocks[i].taps; ++t, weights += block) {
      const char *p = x + offsets[2 * t], *q = x + offsets[2 * t + 1];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        Words a = load_words(p + v * column), b = load_words(q + v * column);
        keep_in_registers(a, b);
        const WordPairs pairs = pair_words(a, b);
#pragma GCC unroll 8
        for (int n = 0; n < block; ++n) {
          add_products(low[n][v], high[n][v], pairs, broadcast_ints(weights[n]));
        }
      }
    }
#pragma GCC unroll 8
    for (int n = 0; n < block; ++n) {
      const int position = i * block + n, channel = job.channels[position];
      if (channel < 0) break;
      const PairTile tile(job, channel, y, s, job.int16_scales[position], job.bias[position]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) tile.put(low[n][v], high[n][v], 0, v);
    }
  }
}

// Visit the blocks of rows [begin, end) when their input is converted.
template <class Visit>
void for_each_block(const ConvJob& job, int begin, int end, char* words, Visit visit) {
  const int pairs = output_vectors(job) - pair_distance(job);
  for (int y = begin; y < end; y += job.int16.rows) {
    const int rows = end - y < job.int16.rows ? end - y : job.int16.rows;
    const int count = (pairs + job.int16.vectors - 1) / job.int16.vectors;
    for (int i = 0; i < count; ++i) {
      const int s = pairs * i / count;
      const BlockOutputs block{y, rows, s, pairs * (i + 1) / count - s};
      convert_block(job, block, words);
      visit(block);
    }
  }
  finish_shuffled_rows(job, begin, end);
}

// The input of the tile at row y and vector s, counted from the block's first ones.
inline const char* block_input(const ConvJob& job, const char* words, int y, int s) {
  const Int16Block& in = job.int16;
  return words + (int64_t(y) * job.stride_y + in.above) * in.row +
         (int64_t(s) * job.stride_x + in.left) * kWordBytes;
}

template <int Stride>
void int16_sparse_rows(const ConvJob& job, int begin, int end, float* scratch) {
  char* const words = reinterpret_cast<char*>(scratch);
  int32_t* const sums = reinterpret_cast<int32_t*>(scratch + job.int16.sums);
  for_each_block(job, begin, end, words, [&](const BlockOutputs& block) {
    for (int y = 0; y < block.rows; y += kTile.int16_rows)
      dispatch_constant<1, kTile.int16_rows>(
          block.rows - y < kTile.int16_rows ? block.rows - y : kTile.int16_rows, [&](auto rows) {
            for_each_tile<kTile.int16_vectors>(block.vectors, [&](int s, auto vectors, int) {
              int16_sparse_tile<rows.value, vectors.value, Stride>(
                  job, block_input(job, words, y, s), block.y + y, block.s + s, sums);
            });
          });
  });
}

// scratch: a block of the input as words, then the partial sums of a tile of `channel_block` output
// channels.
void run_int16_sparse_conv(const ConvJob& job, int begin, int end, float* scratch) {
  if (job.stride_x == 1)
    int16_sparse_rows<1>(job, begin, end, scratch);
  else
    int16_sparse_rows<0>(job, begin, end, scratch);
}

// scratch: a block of the input as words.
void run_int16_dense_conv(const ConvJob& job, int begin, int end, float* scratch) {
  char* const words = reinterpret_cast<char*>(scratch);
  for_each_block(job, begin, end, words, [&](const BlockOutputs& block) {
    for (int y = 0; y < block.rows; ++y)
      for_each_tile<kTile.int16_dense_vectors>(block.vectors, [&](int s, auto vectors, int) {
        const char* x = block_input(job, words, y, s);
        if (job.stride_x == 1)
          int16_dense_tile<vectors.value, 1>(job, x, block.y + y, block.s + s);
        else
          int16_dense_tile<vectors.value, 0>(job, x, block.y + y, block.s + s);
      });
  });
}

}  // namespace
#endif
