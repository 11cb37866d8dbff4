// Transformation of a convolution's weights for Winograd's minimal filtering.
#include "winograd_weights.h"

#include <algorithm>
#include <array>

#include "errors.h"

namespace thinlens {
namespace {

constexpr int kTaps = 3;
using Transform = std::array<std::array<double, kTaps>, kWinogradInputs>;

// G: at each point p the weights' polynomial, divided by the product of p's distances from the
// other points; at infinity its last coefficient. The points are those of micro/winograd.h.
Transform weight_transform() {
  constexpr std::array points{0.0, 0.75, -0.75, 1.5, -1.5};
  Transform g{};
  for (size_t i = 0; i < points.size(); ++i) {
    double distances = 1.0;
    for (size_t j = 0; j < points.size(); ++j)
      if (j != i) distances *= points[i] - points[j];
    for (int tap = 0; tap < kTaps; ++tap)
      g[i][tap] = (tap == 0 ? 1.0 : tap == 1 ? points[i] : points[i] * points[i]) / distances;
  }
  g.back() = {0.0, 0.0, 1.0};
  return g;
}

}  // namespace

bool fits_winograd(const ConvShape& s) {
  return s.kernel_height == kTaps && s.kernel_width == kTaps && s.groups == 1 &&
         s.stride == Axes{1, 1} && s.dilation == Axes{1, 1};
}

std::vector<float> winograd_weights(const SparseWeights& weights, int block, int channels) {
  const ConvShape& shape = weights.shape;
  if (!fits_winograd(shape))
    refuse("Winograd's kernel convolves 3x3 in one group, without a stride or a dilation");
  const Transform g = weight_transform();
  const int inputs = shape.in_channels, outputs = (shape.out_channels + block - 1) / block * block;
  std::vector<float> transformed(size_t(kWinogradPositions) * inputs * outputs, 0.0f);
  std::vector<double> taps(size_t(kTaps * kTaps) * inputs);
  for (int o = 0; o < shape.out_channels; ++o) {
    std::fill(taps.begin(), taps.end(), 0.0);
    for (int32_t i = weights.starts[o]; i < weights.starts[o + 1]; ++i)
      taps[size_t(weights.indices[i])] = weights.values[i];
    const int first = o / channels * channels, count = std::min(channels, outputs - first);
    float* const outputs_from = transformed.data() + size_t(first) * kWinogradPositions * inputs +
                                size_t((o - first) / block * block) * inputs + o % block;
    for (int c = 0; c < inputs; ++c) {
      const double* tap = taps.data() + c;
      float* to = outputs_from + size_t(c) * block;
      for (int row = 0; row < kWinogradInputs; ++row) {
        std::array<double, kTaps> down{};
        for (int x = 0; x < kTaps; ++x)
          for (int y = 0; y < kTaps; ++y)
            down[x] += g[row][y] * tap[size_t(y * kTaps + x) * inputs];
        for (int column = 0; column < kWinogradInputs; ++column, to += size_t(inputs) * count) {
          double sum = 0.0;
          for (int x = 0; x < kTaps; ++x) sum += g[column][x] * down[x];
          *to = float(sum);
        }
      }
    }
  }
  return transformed;
}

WinogradScratch winograd_scratch(const ConvShape& s, const Kernels& kernels) {
  constexpr int64_t cache_bytes = 512 << 10, line = kCacheLine / sizeof(float);
  constexpr int channels = 16;  // whose products stay there too
  const int64_t tile_floats = int64_t(kWinogradPositions) * s.in_channels * kernels.lanes;
  const int tiles = tile_floats * kMaxWinogradTiles * int64_t(sizeof(float)) <= cache_bytes
                        ? kMaxWinogradTiles
                        : kMaxWinogradTiles / 2;
  // An odd number of cache lines: the positions of a tile must not compete for a set of the cache.
  const auto position = [&](int64_t count) {
    return ((count * tiles * kernels.lanes + line - 1) / line | 1) * line;
  };
  const int64_t inputs = position(s.in_channels);
  return {tiles, channels, inputs, position(channels), kWinogradPositions * inputs};
}

}  // namespace thinlens
