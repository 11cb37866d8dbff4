// Conversion of a convolution's weights to 16-bit integers.
//
// Proof that no sum overflows. An input is an integer of magnitude at most A (`largest_`). Let W be
// the sum of the magnitudes of an output channel's integer weights, and L = floor((2^31 - 1) / A).
// The constructor chooses a factor f with sum |w| f <= L - n / 2 for its n non-zero weights.
// Rounding w f to an integer adds at most 1/2 to a magnitude, so W <= L. Any sum of some products
// of the channel, in any order, with every weight at most once, has a magnitude of at most A W <= A
// L <= 2^31 - 1: so has each of the two products of a pair, their sum, and every partial sum. Pairs
// of an odd last weight with itself multiply it by 0 the second time.
//
// Choice of A. Rounding the weights errs by about n A / 2^31 of the output, rounding the inputs by
// about 1 / A of it times the range over the root mean square, which is some 50 with the headroom
// of the range. Both are alike at A^2 n = const: 144 weights (3x3, 64 channels, 8:32) have the full
// 15 bits of an input.
#include "int16_weights.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "errors.h"

namespace thinlens {
namespace {

constexpr double kMostWord = 32767.0;
constexpr double kWeightsOfFullInputs = 144.0;
constexpr double kMostSum = std::numeric_limits<int32_t>::max();

constexpr int64_t kBlockBytes = 256 << 10;            // of the converted input: a part of the cache
constexpr int kMaxBlockRows = 12, kMinBlockRows = 4;  // of outputs
constexpr int kMaxBlockVectors = 10;                  // pairs

int64_t odd_lines(int64_t bytes) {
  return ((bytes + kCacheLine - 1) / kCacheLine | 1) * kCacheLine;
}

}  // namespace

Int16Weights::Int16Weights(const SparseWeights& weights) {
  const int channels = weights.shape.out_channels;
  int32_t most = 1;
  for (int o = 0; o < channels; ++o)
    most = std::max(most, weights.starts[o + 1] - weights.starts[o]);
  largest_ =
      int(std::min(kMostWord, std::round(kMostWord * std::sqrt(kWeightsOfFullInputs / most))));
  const double limit = std::floor(kMostSum / largest_);
  for (int o = 0; o < channels; ++o) {
    const int32_t begin = weights.starts[o], end = weights.starts[o + 1];
    double sum = 0.0, greatest = 0.0;
    for (int32_t i = begin; i < end; ++i) {
      const double size = std::abs(double(weights.values[i]));
      sum += size, greatest = std::max(greatest, size);
    }
    if (!std::isfinite(sum)) refuse("int16 weights must be finite");
    if (sum == 0.0) {
      factors_.push_back(1.0);
      continue;
    }
    // One less than the proof allows, for the rounding of `sum` itself.
    const double room = limit - (end - begin) / 2.0 - 1.0;
    if (room <= 0.0) refuse("an output channel has too many weights for int16");
    factors_.push_back(std::min(room / sum, kMostWord / greatest));
  }
}

int16_t Int16Weights::word(int channel, float weight) const {
  return int16_t(std::lround(double(weight) * factors_[size_t(channel)]));
}

std::vector<float> Int16Weights::sum_scales(float scale) const {
  std::vector<float> scales;
  for (const double factor : factors_) scales.push_back(float(1.0 / (factor * double(scale))));
  return scales;
}

Int16Block int16_block(const ConvJob& job, const ConvShape& s, const Kernels& kernels) {
  Int16Block block{};
  block.above = s.padding[0], block.below = s.dilation[0] * (s.kernel_height - 1) - s.padding[0];
  block.left = s.padding[1], block.right = s.dilation[1] * (s.kernel_width - 1) - s.padding[1];
  const int tile_rows = kernels.tile.int16_rows, vectors = job.out.row_vectors / job.shuffle;
  const int pairs = (vectors + 1) / 2, blocks = (pairs + kMaxBlockVectors - 1) / kMaxBlockVectors;
  block.vectors = (pairs + blocks - 1) / blocks;
  const int64_t vector = int64_t(kernels.lanes) * kernels.value_bytes;
  const int64_t width = int64_t(block.vectors - 1) * job.stride_x + 1 + block.left + block.right;
  block.channel = odd_lines(width * vector);
  block.row = block.channel * job.in.channels + kCacheLine * (job.in.channels % 2 ? 0 : 1);
  const int64_t rows_away = std::max(std::abs(block.above), std::abs(block.below)) + 1;
  if (block.row * rows_away > INT32_MAX) refuse("a row is too long for a convolution of int16");
  const auto input_rows = [&](int rows) {
    return int64_t(rows - 1) * job.stride_y + 1 + block.above + block.below;
  };
  block.rows = kMaxBlockRows / tile_rows * tile_rows;
  while (block.rows > kMinBlockRows && input_rows(block.rows) * block.row > kBlockBytes)
    block.rows -= tile_rows;
  block.sums = (input_rows(block.rows) * block.row + kCacheLine - 1) / kCacheLine * kCacheLine / 4;
  return block;
}

}  // namespace thinlens
