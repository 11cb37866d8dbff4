// The weights of a convolution in compressed sparse rows (CSR), one row per output channel.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.h"
#include "nonzero.h"

namespace thinlens {

typedef std::array<int, 2> Axes;  // vertical, horizontal

struct ConvShape {
  int in_channels, out_channels, kernel_height, kernel_width;
  Axes padding;  // above and left; negative where the first rows or columns are not read
  Axes stride, dilation;
  int groups;

  int group_inputs() const { return in_channels / groups; }
  int group_outputs() const { return out_channels / groups; }
};

struct SparseLayout {  // in the order of the sparse micro-kernel; see ConvJob
  std::vector<NonZero> nonzeros;
  std::vector<NonZeroPair>
      pairs;  // in place of `nonzeros` where the kernels multiply two at a time
  std::vector<int32_t> starts;

  const void* data() const {
    return pairs.empty() ? static_cast<const void*>(nonzeros.data()) : pairs.data();
  }
};

// The 16-bit words of weights that kernels multiply two at a time, by output channel.
using WeightWords = std::function<uint16_t(int channel, float weight)>;

struct DenseLayout {  // in the order of the dense micro-kernel; see ConvJob
  std::vector<int32_t> offsets, channels;
  std::vector<DenseBlock> blocks;
  std::vector<uint32_t> weights;  // bits of a float, or two words
  std::vector<float> bias;
};

// An index points into [kernel_height, kernel_width, in_channels / groups]; those of an output
// channel rise.
// The constructor validates everything and throws std::invalid_argument.
class SparseWeights {
 public:
  SparseWeights(ConvShape shape, std::vector<int32_t> starts, std::vector<int32_t> indices,
                std::vector<float> values, std::vector<float> bias);

  const ConvShape shape;
  const std::vector<int32_t> starts;  // in `indices`, by output channel, and their end
  const std::vector<int32_t> indices;
  const std::vector<float> values;
  const std::vector<float> bias;

  // Non-zeros only, input channels cut into groups of `group`; in pairs where there are `words`.
  SparseLayout sparse_layout(const View& in, const Kernels& kernels, int group,
                             const WeightWords& words) const;
  // Zeros included, but for taps that no channel of a block has: the channels that a pixel shuffle
  // of that factor stores at one place of its squares are next to each other. For one group.
  DenseLayout dense_layout(const View& in, const Kernels& kernels, int shuffle,
                           const WeightWords& words) const;

 private:
  // The input channel that a weight of output channel `o` multiplies.
  int channel(int o, int index) const;
  // Bytes from an output's position in `in` to the input that the weight at `index` multiplies.
  int64_t offset(const View& in, const Kernels& kernels, int o, int index) const;
};

}  // namespace thinlens
