// The weights of a convolution in compressed sparse rows (CSR): validation and layout for kernels.
#include "sparse_weights.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "errors.h"

namespace thinlens {
namespace {

void check(const ConvShape& s) {
  constexpr int max_channels = 1 << 16, max_kernel = 127, max_step = 256, max_padding = 1 << 10;
  if (std::min(s.in_channels, s.out_channels) < 1 ||
      std::max(s.in_channels, s.out_channels) > max_channels)
    refuse("a convolution has 1 to 65536 channels, not " + std::to_string(s.in_channels) + " to " +
           std::to_string(s.out_channels));
  if (std::min(s.kernel_height, s.kernel_width) < 1 ||
      std::max(s.kernel_height, s.kernel_width) > max_kernel)
    refuse("a convolution's kernel is 1 to 127 pixels high and wide, not " +
           std::to_string(s.kernel_height) + "x" + std::to_string(s.kernel_width));
  for (int axis = 0; axis < 2; ++axis) {
    if (std::min(s.stride[axis], s.dilation[axis]) < 1 ||
        std::max(s.stride[axis], s.dilation[axis]) > max_step)
      refuse("a stride and a dilation are 1 to 256, not " + std::to_string(s.stride[axis]) +
             " and " + std::to_string(s.dilation[axis]));
    if (std::abs(s.padding[axis]) > max_padding)
      refuse("a padding is -1024 to 1024, not " + std::to_string(s.padding[axis]));
  }
  if (s.groups < 1 || s.in_channels % s.groups || s.out_channels % s.groups)
    refuse(
        "the groups of a convolution must divide its channels: " + std::to_string(s.in_channels) +
        " to " + std::to_string(s.out_channels) + " in " + std::to_string(s.groups) + " groups");
}

// Pair the non-zeros of each output channel; an odd last one is paired with itself, times 0.
void pair_words(SparseOrder* order, int out_channels, const WeightWords& words) {
  order->pair_starts.assign(1, 0);
  for (size_t i = 0; i + 1 < order->starts.size(); ++i) {
    const int32_t end = order->starts[i + 1];
    const int o = int(i) % out_channels;
    for (int32_t n = order->starts[i]; n < end; n += 2) {
      const uint32_t upper = n + 1 < end ? words.word(o, order->weights[n + 1]) : 0;
      order->words.push_back(words.word(o, order->weights[n]) | upper << 16);
    }
    order->pair_starts.push_back(int32_t(order->words.size()));
  }
}

}  // namespace

SparseWeights::SparseWeights(ConvShape shape_, std::vector<int32_t> starts_,
                             std::vector<int32_t> indices_, std::vector<float> values_,
                             std::vector<float> bias_)
    : shape(shape_),
      starts(std::move(starts_)),
      indices(std::move(indices_)),
      values(std::move(values_)),
      bias(std::move(bias_)) {
  check(shape);
  const int64_t taps = int64_t(shape.kernel_height) * shape.kernel_width * shape.group_inputs();
  const size_t out_channels = size_t(shape.out_channels);
  if (taps > INT32_MAX || indices.size() > size_t(INT32_MAX))
    refuse("sparse weights are too large");
  if (starts.size() != out_channels + 1 || bias.size() != out_channels)
    refuse("sparse weights need one start and one bias for each of " +
           std::to_string(out_channels) + " output channels, and a last start, not " +
           std::to_string(starts.size()) + " starts and " + std::to_string(bias.size()) +
           " biases");
  if (indices.size() != values.size())
    refuse("sparse weights need one value for each of " + std::to_string(indices.size()) +
           " indices, not " + std::to_string(values.size()));
  if (starts.front() != 0 || starts.back() != int32_t(indices.size()))
    refuse("the starts of sparse weights must run from 0 to the number of indices");
  for (size_t o = 0; o < out_channels; ++o)
    if (starts[o] > starts[o + 1]) refuse("the starts of sparse weights must not fall");
  for (size_t o = 0; o < out_channels; ++o)
    for (int32_t i = starts[o]; i < starts[o + 1]; ++i) {
      if (indices[i] < 0 || indices[i] >= taps)
        refuse("an index of sparse weights is 0 to " + std::to_string(taps - 1) + ", not " +
               std::to_string(indices[i]));
      if (i > starts[o] && indices[i] <= indices[i - 1])
        refuse("the indices of sparse weights must rise within an output channel");
    }
  taps_ = indices;
  std::sort(taps_.begin(), taps_.end());
  taps_.erase(std::unique(taps_.begin(), taps_.end()), taps_.end());
  tap_of_weight_.reserve(indices.size());
  for (const int32_t index : indices)
    tap_of_weight_.push_back(
        int32_t(std::lower_bound(taps_.begin(), taps_.end(), index) - taps_.begin()));
}

int SparseWeights::channel(int o, int index) const {
  const int first = o / shape.group_outputs() * shape.group_inputs();
  return first + index % shape.group_inputs();
}

std::vector<int64_t> SparseWeights::offsets(const View& in, const Kernels& kernels) const {
  std::vector<int64_t> offsets;
  offsets.reserve(taps_.size());
  for (const int32_t index : taps_) {
    const int tap = index / shape.group_inputs(), c = index % shape.group_inputs();
    const int dy = tap / shape.kernel_width * shape.dilation[0] - shape.padding[0];
    const int dx = tap % shape.kernel_width * shape.dilation[1] - shape.padding[1];
    offsets.push_back(dy * in.row + c * in.channel +
                      int64_t(dx) * kernels.lanes * kernels.value_bytes);
  }
  return offsets;
}

// Offsets rise by row, then by channel, then by column, whatever the size of the image: all columns
// that a convolution reads are in a row and its halo (`fit_conv`), and all channels in the input.
SparseOrder SparseWeights::sparse_order(int group, const WeightWords& words) const {
  std::vector<int64_t> positions;  // by tap
  for (const int32_t index : taps_) {
    const int tap = index / shape.group_inputs(), c = index % shape.group_inputs();
    const int64_t row = tap / shape.kernel_width, column = tap % shape.kernel_width;
    positions.push_back((row * shape.group_inputs() + c) * shape.kernel_width + column);
  }
  SparseOrder order;
  order.starts.assign(1, 0);
  std::vector<int32_t> weights;
  for (int first = 0; first < shape.in_channels; first += group)
    for (int o = 0; o < shape.out_channels; ++o) {
      weights.clear();
      for (int32_t i = starts[o]; i < starts[o + 1]; ++i)
        if (const int c = channel(o, indices[i]); c >= first && c < first + group)
          weights.push_back(i);
      std::sort(weights.begin(), weights.end(), [&](int32_t a, int32_t b) {
        return positions[tap_of_weight_[a]] < positions[tap_of_weight_[b]];
      });
      // Every other channel runs backwards, so that it starts on what the cache holds.
      if (o % 2) std::reverse(weights.begin(), weights.end());
      for (const int32_t i : weights) {
        order.taps.push_back(tap_of_weight_[i]);
        order.weights.push_back(values[i]);
      }
      order.starts.push_back(int32_t(order.taps.size()));
    }
  if (words) pair_words(&order, shape.out_channels, words);
  return order;
}

SparseLayout SparseWeights::sparse_layout(const View& in, const Kernels& kernels, int group,
                                          const WeightWords& words) const {
  const std::vector<int64_t> by_tap = offsets(in, kernels);
  SparseLayout layout;
  layout.order = computed_once<SparseOrder>({kSparseOrder, group, 0, int(words.format)},
                                            [&] { return sparse_order(group, words); });
  const SparseOrder& order = *layout.order;
  const auto offset = [&](int o, int32_t n) {
    const int64_t group_channel = o / shape.group_outputs() * shape.group_inputs();
    return int32_t(by_tap[order.taps[n]] + group_channel * in.channel);
  };
  (words ? layout.pairs.reserve(order.words.size()) : layout.nonzeros.reserve(order.taps.size()));
  for (size_t i = 0; i + 1 < order.starts.size(); ++i) {
    const int o = int(i) % shape.out_channels;
    const int32_t end = order.starts[i + 1];
    for (int32_t n = order.starts[i]; n < end; n += words ? 2 : 1)
      if (words)
        layout.pairs.push_back(
            {offset(o, n), offset(o, n + 1 < end ? n + 1 : n), order.words[layout.pairs.size()]});
      else
        layout.nonzeros.push_back({offset(o, n), order.weights[n]});
  }
  return layout;
}

DenseLayout SparseWeights::dense_layout(const View& in, const Kernels& kernels, int shuffle,
                                        const WeightWords& words) const {
  if (shape.groups != 1) refuse("the dense kernel convolves one group of channels");
  const int block = kernels.tile.dense_channels;
  DenseLayout layout;
  layout.order = computed_once<DenseOrder>({kDenseOrder, block, shuffle, int(words.format)},
                                           [&] { return dense_order(block, shuffle, words); });
  const std::vector<int64_t> by_tap = offsets(in, kernels);
  layout.offsets.reserve(layout.order->taps.size());
  for (const int32_t tap : layout.order->taps) layout.offsets.push_back(int32_t(by_tap[tap]));
  return layout;
}

DenseOrder SparseWeights::dense_order(int block, int shuffle, const WeightWords& words) const {
  DenseOrder order;
  const int fused = words ? 2 : 1, squares = shuffle * shuffle;
  order.channels.resize(size_t(shape.out_channels));
  std::iota(order.channels.begin(), order.channels.end(), 0);
  std::stable_sort(order.channels.begin(), order.channels.end(),
                   [squares](int a, int b) { return a % squares < b % squares; });
  while (order.channels.size() % block) order.channels.push_back(-1);
  std::map<std::vector<int32_t>, int> first_taps;  // blocks with the same taps share them
  for (size_t first = 0; first < order.channels.size(); first += block) {
    const int32_t* channels = order.channels.data() + first;
    std::vector<int32_t> taps;
    for (int b = 0; b < block && channels[b] >= 0; ++b)
      taps.insert(taps.end(), tap_of_weight_.begin() + starts[channels[b]],
                  tap_of_weight_.begin() + starts[channels[b] + 1]);
    std::sort(taps.begin(), taps.end());
    taps.erase(std::unique(taps.begin(), taps.end()), taps.end());
    const int steps = (int(taps.size()) + fused - 1) / fused;
    const auto [shared, is_new] = first_taps.insert({taps, int(order.taps.size())});
    if (is_new)  // an odd last tap is paired with itself, times 0
      for (int t = 0; t < steps * fused; ++t)
        order.taps.push_back(taps[std::min(size_t(t), taps.size() - 1)]);
    order.blocks.push_back({shared->second, steps});
    const size_t weights = order.weights.size();
    order.weights.resize(weights + size_t(steps) * block, 0);
    for (int b = 0; b < block; ++b) {
      const int o = channels[b];
      order.bias.push_back(o < 0 ? 0.0f : bias[o]);
      for (int32_t i = o < 0 ? 0 : starts[o]; o >= 0 && i < starts[o + 1]; ++i) {
        const int tap =
            int(std::lower_bound(taps.begin(), taps.end(), tap_of_weight_[i]) - taps.begin());
        uint32_t& bits = order.weights[weights + size_t(tap / fused) * block + b];
        if (words)
          bits |= uint32_t(words.word(o, values[i])) << (16 * (tap % fused));
        else
          std::memcpy(&bits, &values[i], sizeof bits);
      }
    }
  }
  return order;
}

}  // namespace thinlens
