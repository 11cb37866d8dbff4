// The weights of a convolution in compressed sparse rows (CSR), one row per output channel.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
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

// How kernels that multiply two weights at a time read them.
enum class WordFormat { kNone, kBf16, kInt16 };

struct WeightWords {
  WordFormat format = WordFormat::kNone;
  std::function<uint16_t(int channel, float weight)> word{};

  explicit operator bool() const { return format != WordFormat::kNone; }
};

// In the order of the sparse micro-kernel; the non-zeros of (group of input channels, output
// channel) begin at `starts`. No size of an image changes it.
struct SparseOrder {
  std::vector<int32_t> taps, starts;
  std::vector<float> weights;
  std::vector<uint32_t> words;       // of pairs, in place of `weights`
  std::vector<int32_t> pair_starts;  // in place of `starts`
};

struct SparseLayout {  // see ConvJob
  std::shared_ptr<const SparseOrder> order;
  std::vector<NonZero> nonzeros;
  std::vector<NonZeroPair> pairs;  // in place of `nonzeros` where kernels multiply two at a time

  const void* data() const {
    return pairs.empty() ? static_cast<const void*>(nonzeros.data()) : pairs.data();
  }
  const int32_t* starts() const {
    return (order->pair_starts.empty() ? order->starts : order->pair_starts).data();
  }
};

// In the order of the dense micro-kernel. No size of an image changes it.
struct DenseOrder {
  std::vector<int32_t> taps, channels;
  std::vector<DenseBlock> blocks;
  std::vector<uint32_t> weights;  // bits of a float, or two words
  std::vector<float> bias;
};

struct DenseLayout {  // see ConvJob
  std::shared_ptr<const DenseOrder> order;
  std::vector<int32_t> offsets;
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

  // What is computed of the weights alone, once for each key; the type follows from key[0].
  using Key = std::array<int, 4>;
  template <class T, class Compute>
  std::shared_ptr<const T> computed_once(const Key& key, Compute compute) const {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const void>& value = computed_[key];
    if (!value) value = std::make_shared<const T>(compute());
    return std::static_pointer_cast<const T>(value);
  }

 private:
  // The input channel that a weight of output channel `o` multiplies.
  int channel(int o, int index) const;
  SparseOrder sparse_order(int group, const WeightWords& words) const;
  DenseOrder dense_order(int block, int shuffle, const WeightWords& words) const;
  // By tap, bytes from an output's position in `in` to the input of group 0 that it multiplies.
  std::vector<int64_t> offsets(const View& in, const Kernels& kernels) const;

  std::vector<int32_t> taps_;           // the indices that any output channel has, in order
  std::vector<int32_t> tap_of_weight_;  // by weight, its place in `taps_`
  mutable std::mutex mutex_;
  mutable std::map<Key, std::shared_ptr<const void>> computed_;
};

// The first numbers of keys of SparseWeights::computed_once.
enum ComputedOnce { kSparseOrder, kDenseOrder, kWinogradWeights, kInt16Weights };

}  // namespace thinlens
