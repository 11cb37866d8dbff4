// Dense 3x3 convolution by Winograd's minimal filtering F(4x4, 3x3), in float32 arithmetic.
//
// A tile of 4x4 outputs takes 36 products of its 6x6 inputs instead of 144 multiply-adds. In
// strided lanes neighbouring columns are neighbouring vectors: a tile is 4 rows by 4 vectors, one
// tile of the image per lane, and both transforms are arithmetic on whole vectors. The products
// of all tiles of a block at one of the 36 positions are a matrix product, [outputs, inputs] by
// [inputs, tiles].
//
// The interpolation points are 0, +-3/4, +-3/2 and infinity, whose constants are exact in float32
// (the usual 0, +-1, +-2 doubles the error). With |.| the absolute values of all entries, B' d B
// the transform of the inputs, G g G' of the weights and A' m A of the products, an output of C
// input channels differs from the exact one by at most
//   (C + 24) * 2^-24 * (|A'| (sum of |G| |g| |G'| * |B'| |d| |B|) |A| + |bias| + |residual|).
// Measured: twice the mean error of direct convolution in float32.
#pragma once

#include "conv.h"

namespace thinlens {

constexpr int kWinogradOutputs = 4;  // rows, and columns, of a tile's outputs
constexpr int kWinogradInputs = 6;   // ... of its inputs
constexpr int kWinogradPositions = 36;
constexpr int kMaxWinogradTiles = 6;  // of a block

}  // namespace thinlens

#ifdef THINLENS_FLOATS
namespace {

constexpr int kTileOutputs = thinlens::kWinogradOutputs, kTileInputs = thinlens::kWinogradInputs;
constexpr int kBlockColumns = kTileOutputs * thinlens::kMaxWinogradTiles + 2;
constexpr int kFloatsPerTile = kLanes;  // of one channel at one position
constexpr int kFloatVectors = kLanes / kFloats;

constexpr int kWeightsAhead = 512;  // floats of weights that are prefetched; 3% (Cascade Lake)

// The two pairs of points +-a and +-b.
constexpr float kA = 0.75f, kB = 1.5f;
constexpr float kA2 = kA * kA, kB2 = kB * kB, kA3 = kA2 * kA, kB3 = kB2 * kB;

// B' d: polynomials with the points as roots, but one each.
inline void transform_inputs(const Vector (&d)[kTileInputs], Vector (&v)[kTileInputs]) {
  const Vector even_a = d[4] - d[2] * kB2, odd_a = d[3] - d[1] * kB2;
  const Vector even_b = d[4] - d[2] * kA2, odd_b = d[3] - d[1] * kA2;
  v[0] = d[0] * (kA2 * kB2) + (d[4] - d[2] * (kA2 + kB2));
  v[1] = even_a + odd_a * kA;
  v[2] = even_a - odd_a * kA;
  v[3] = even_b + odd_b * kB;
  v[4] = even_b - odd_b * kB;
  v[5] = d[1] * (kA2 * kB2) + (d[5] - d[3] * (kA2 + kB2));
}

// A' m: powers of the points.
inline void transform_products(const Vector (&m)[kTileInputs], Vector (&y)[kTileOutputs]) {
  const Vector sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const Vector sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = difference_a * kA + difference_b * kB;
  y[2] = sum_a * kA2 + sum_b * kB2;
  y[3] = difference_a * kA3 + (difference_b * kB3 + m[5]);
}

struct WinogradBlock {
  int y, s;           // of its first output
  int rows, vectors;  // of its outputs; tiles past them are filled with zeros
  int tile_rows, tile_columns;

  int tiles() const { return tile_rows * tile_columns; }
};

inline int tiles_of(int outputs) { return (outputs + kTileOutputs - 1) / kTileOutputs; }

alignas(64) const char zero_columns[kBlockColumns * kVectorBytes] = {};

// Write the transformed inputs of a row of tiles, from tile `first` of the block on, to
// [position][input channel][tile].
void transform_tile_row(const ConvJob& job, const WinogradBlock& block, int tile_row, float* to) {
  const int y = block.y + tile_row * kTileOutputs, rows = block.rows - tile_row * kTileOutputs;
  const char* inputs[kTileInputs];
  int64_t channel[kTileInputs];
  for (int r = 0; r < kTileInputs; ++r) {
    const bool read = r < rows + 2;
    inputs[r] = read ? job.in.data + int64_t(y + r - job.padding_y) * job.in.row +
                           (block.s - job.padding_x) * kVectorBytes
                     : zero_columns;
    channel[r] = read ? job.in.channel : 0;
  }
  const int columns = block.vectors + 2;
  const int all_columns = block.tile_columns * kTileOutputs + 2;
  const int64_t position = job.winograd.input_position;
  Vector down[kTileInputs][kBlockColumns];
  for (int column = columns; column < all_columns; ++column)
    for (int r = 0; r < kTileInputs; ++r) down[r][column] = broadcast(0.0f);
  for (int c = 0; c < job.in.channels; ++c) {
    for (int column = 0; column < columns; ++column) {
      Vector d[kTileInputs], v[kTileInputs];
#pragma GCC unroll 8
      for (int r = 0; r < kTileInputs; ++r) {
        const char* input = inputs[r] + column * kVectorBytes;
        d[r] = load(reinterpret_cast<const Element*>(input));
        __builtin_prefetch(input + channel[r]);  // too many streams for a hardware prefetcher
      }
      transform_inputs(d, v);
#pragma GCC unroll 8
      for (int r = 0; r < kTileInputs; ++r) down[r][column] = v[r];
    }
    for (int r = 0; r < kTileInputs; ++r) inputs[r] += channel[r];
    float* tile =
        to + (int64_t(c) * job.winograd.tiles + tile_row * block.tile_columns) * kFloatsPerTile;
    for (int t = 0; t < block.tile_columns; ++t, tile += kFloatsPerTile)
      for (int r = 0; r < kTileInputs; ++r) {
        Vector d[kTileInputs], v[kTileInputs];
#pragma GCC unroll 8
        for (int k = 0; k < kTileInputs; ++k) d[k] = down[r][t * kTileOutputs + k];
        transform_inputs(d, v);
#pragma GCC unroll 8
        for (int k = 0; k < kTileInputs; ++k)
          store_partial_sum(tile + (r * kTileInputs + k) * position, v[k]);
      }
  }
}

// Multiply the weights of a block of output channels at one position, [input][output], with `N`
// vectors of the inputs, [input][vector].
template <int N>
void multiply_position(const float* weights, const float* in, int64_t in_row, int channels,
                       float* out, int64_t out_row) {
  constexpr int block = kTile.product_channels;
  Floats acc[block][N] = {};
  for (int c = 0; c < channels; ++c, weights += block, in += in_row) {
    __builtin_prefetch(weights + kWeightsAhead);
    Floats x[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] = load_floats(in + n * kFloats);
    const Factors<block> factors(weights);
#pragma GCC unroll 8
    for (int o = 0; o < block; ++o)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) factors.multiply_add(acc[o][n], o, x[n]);
  }
#pragma GCC unroll 8
  for (int o = 0; o < block; ++o)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store_floats(out + o * out_row + n * kFloats, acc[o][n]);
}

// Multiply the weights of output channels [first, last) with the inputs at all positions.
void multiply_positions(const ConvJob& job, int tiles, int first, int last, const float* in,
                        float* out) {
  constexpr int block = kTile.product_channels;
  const int vectors = tiles * kFloatVectors;
  const int64_t row = int64_t(job.winograd.tiles) * kFloatsPerTile;
  const float* weights = static_cast<const float*>(job.weights) +
                         int64_t(first) * thinlens::kWinogradPositions * job.in.channels;
  for (int p = 0; p < thinlens::kWinogradPositions; ++p) {
    for (int o = 0; o < last - first; o += block, weights += int64_t(block) * job.in.channels)
      for_each_tile<kTile.product_vectors>(vectors, [&](int v, auto count, int) {
        multiply_position<count.value>(weights, in + v * kFloats, row, job.in.channels,
                                       out + o * row + v * kFloats, row);
      });
    in += job.winograd.input_position;
    out += job.winograd.product_position;
  }
}

// Transform the products of an output channel's tile, and store it.
void store_tile(const ConvJob& job, int channel, int y, int s, int rows, int vectors,
                const float* products, int64_t position) {
  Vector across[kTileOutputs][kTileInputs];
#pragma GCC unroll 8
  for (int k = 0; k < kTileInputs; ++k) {
    Vector m[kTileInputs], v[kTileOutputs];
#pragma GCC unroll 8
    for (int r = 0; r < kTileInputs; ++r)
      m[r] = load_partial_sum(products + (r * kTileInputs + k) * position);
    transform_products(m, v);
#pragma GCC unroll 8
    for (int r = 0; r < kTileOutputs; ++r) across[r][k] = v[r];
  }
  const OutputTile tile(job, channel, y, s);
  const Vector bias = broadcast(job.bias[channel]);
  for (int r = 0; r < rows; ++r) {
    Vector v[kTileOutputs];
    transform_products(across[r], v);
    if (vectors == kTileOutputs) {
#pragma GCC unroll 8
      for (int k = 0; k < kTileOutputs; ++k) tile.put(v[k] + bias, r, k);
    } else {
      for (int k = 0; k < vectors; ++k) tile.put(v[k] + bias, r, k);
    }
  }
}

void store_block(const ConvJob& job, const WinogradBlock& block, int first, int last,
                 const float* products) {
  const int64_t row = int64_t(job.winograd.tiles) * kFloatsPerTile;
  const int64_t position = job.winograd.product_position;
  const auto outputs = [](int total, int tile) {
    const int rest = total - tile * kTileOutputs;
    return rest < kTileOutputs ? rest : kTileOutputs;
  };
  for (int c = first; c < last && c < job.out_channels; ++c, products += row)
    for (int r = 0; r < block.tile_rows; ++r)
      for (int t = 0; t < block.tile_columns; ++t)
        store_tile(job, c, block.y + r * kTileOutputs, block.s + t * kTileOutputs,
                   outputs(block.rows, r), outputs(block.vectors, t),
                   products + (r * block.tile_columns + t) * kFloatsPerTile, position);
}

// scratch: the transformed inputs, then the products, of a block of `winograd_tiles` tiles.
void run_winograd_conv(const ConvJob& job, int begin, int end, float* scratch) {
  const int vectors = job.out.row_vectors / job.shuffle, columns = tiles_of(vectors);
  const int blocks = (columns + job.winograd.tiles - 1) / job.winograd.tiles;  // per row
  const int tile_rows = columns < job.winograd.tiles ? job.winograd.tiles / columns : 1;
  const int outputs = (job.out_channels + kTile.product_channels - 1) / kTile.product_channels *
                      kTile.product_channels;
  float* const products = scratch + job.winograd.products;
  for (int y = begin; y < end; y += tile_rows * kTileOutputs)
    for (int i = 0; i < blocks; ++i) {
      const int first = columns * i / blocks, last = columns * (i + 1) / blocks;
      WinogradBlock block{y, first * kTileOutputs, end - y, vectors - first * kTileOutputs,
                          0, last - first};
      if (block.rows > tile_rows * kTileOutputs) block.rows = tile_rows * kTileOutputs;
      if (block.vectors > block.tile_columns * kTileOutputs)
        block.vectors = block.tile_columns * kTileOutputs;
      block.tile_rows = tiles_of(block.rows);
      for (int r = 0; r < block.tile_rows; ++r) transform_tile_row(job, block, r, scratch);
      for (int c = 0; c < job.out_channels; c += job.winograd.channels) {
        const int end_channel = std::min(c + job.winograd.channels, outputs);
        multiply_positions(job, block.tiles(), c, end_channel, scratch, products);
        store_block(job, block, c, end_channel, products);
      }
    }
  finish_shuffled_rows(job, begin, end);
}

}  // namespace
#endif
