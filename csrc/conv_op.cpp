// Addition of a convolution to a program: validation of its arguments, and the choice of its
// kernel.
#include "conv_op.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "errors.h"
#include "int16_weights.h"
#include "winograd_weights.h"

namespace thinlens {
namespace {

constexpr int kWinograd = -1;      // in place of a channel group
constexpr int kChannelBlock = 64;  // output channels whose partial sums are kept in scratch

// Set what a convolution's job takes from the sizes of its tensors, which must fit: what it reads
// beyond its input is in the halo. The output's size says how many rows and columns there are.
Footprint fit_conv(ConvJob& job, const ConvShape& s) {
  const int shuffle = job.shuffle;
  if (shuffle < 1 || shuffle > 8 || s.out_channels % (shuffle * shuffle) ||
      job.out.channels != s.out_channels / (shuffle * shuffle) || job.in.channels != s.in_channels)
    refuse("a convolution's channels do not fit its tensors");
  const auto [stride_y, stride_x] = s.stride;
  const int below = s.dilation[0] * (s.kernel_height - 1) - s.padding[0];
  const int right = s.dilation[1] * (s.kernel_width - 1) - s.padding[1];
  const int rows = job.out.height / shuffle, row_vectors = job.in.row_vectors / stride_x;
  if (job.in.row_vectors % stride_x || row_vectors < 1 || job.out.height % shuffle ||
      job.out.row_vectors != row_vectors * shuffle)
    refuse("a convolution's sizes do not fit its tensors");
  const int64_t last_row = int64_t(rows - 1) * stride_y + below;
  const int64_t last_vector = int64_t(row_vectors - 1) * stride_x + right;
  if (std::max(s.padding[0], s.padding[1]) > job.in.halo ||
      last_row >= job.in.height + job.in.halo || last_vector >= job.in.row_vectors + job.in.halo)
    refuse("a convolution reads past its input's halo of " + std::to_string(job.in.halo));
  const int64_t rows_away = std::max(std::abs(s.padding[0]), std::abs(below)) + 1;
  if (job.in.row * rows_away > INT32_MAX) refuse("a row is too long for a convolution");
  job.out_channels = s.out_channels, job.rows = rows;
  job.stride_y = stride_y, job.stride_x = stride_x;
  job.rows_above = std::max(s.padding[0], 0), job.rows_below = std::max(below, 0);
  job.padding_y = s.padding[0], job.padding_x = s.padding[1];
  return {job.in.slice, stride_y, s.padding[0], below};
}

std::vector<float> slopes_by_channel(const Slopes& slopes, int channels) {
  if (const float* one = std::get_if<float>(&slopes))
    return std::vector<float>(size_t(channels), *one);
  const auto& all = std::get<std::vector<float>>(slopes);
  if (all.size() != size_t(channels))
    refuse("a step needs one slope for each of " + std::to_string(channels) + " channels, not " +
           std::to_string(all.size()));
  return all;
}

struct Layouts {  // what a job's pointers point to
  SparseLayout sparse;
  DenseLayout dense;
  std::vector<float> slopes, int16_scales;
  std::shared_ptr<const std::vector<float>> winograd;
  std::shared_ptr<const SparseWeights> weights;
};

void set_dense(ConvJob& job, Layouts& layouts, const Kernels& kernels, const WeightWords& words) {
  layouts.dense = layouts.weights->dense_layout(job.in, kernels, job.shuffle, words);
  const DenseOrder& order = *layouts.dense.order;
  job.bias = order.bias.data();
  job.offsets = layouts.dense.offsets.data();
  job.weights = order.weights.data();
  job.blocks = order.blocks.data();
  job.channels = order.channels.data();
  job.block_count = int(order.blocks.size());
}

void set_winograd(ConvJob& job, Layouts& layouts, Program& program) {
  const SparseWeights& weights = *layouts.weights;
  const Kernels& kernels = program.kernels();
  job.bias = weights.bias.data();
  job.winograd = winograd_scratch(weights.shape, kernels);
  const int block = kernels.tile.product_channels, channels = job.winograd.channels;
  layouts.winograd = weights.computed_once<std::vector<float>>(
      {kWinogradWeights, block, channels, 0},
      [&] { return winograd_weights(weights, block, channels); });
  job.weights = layouts.winograd->data();
  program.require_scratch(job.winograd.products +
                          kWinogradPositions * job.winograd.product_position);
}

void set_sparse(ConvJob& job, Layouts& layouts, const Kernels& kernels, int channel_group,
                const WeightWords& words) {
  const ConvShape& shape = layouts.weights->shape;
  job.bias = layouts.weights->bias.data();
  layouts.sparse = layouts.weights->sparse_layout(job.in, kernels, channel_group, words);
  job.nonzeros = layouts.sparse.data();
  job.starts = layouts.sparse.starts();
  job.channel_groups = (shape.in_channels + channel_group - 1) / channel_group;
  job.channel_block = job.channel_groups == 1 ? shape.out_channels : kChannelBlock;
}

// As the sparse or the dense kernel, whose offsets point into the converted input.
void set_int16(ConvJob& job, Layouts& layouts, Program& program, int channel_group, float range) {
  const SparseWeights& weights = *layouts.weights;
  const Kernels& kernels = program.kernels();
  if (kernels.value_bytes != int(sizeof(float)))
    refuse("int16 convolutions read tensors in fp32 storage");
  if (channel_group == kWinograd) refuse("Winograd's kernel has no int16");
  const auto shared =
      weights.computed_once<Int16Weights>({kInt16Weights}, [&] { return Int16Weights(weights); });
  const Int16Weights& words = *shared;
  job.int16 = int16_block(job, weights.shape, kernels);
  job.int16.largest = words.largest();
  job.int16.scale = float(words.largest()) / range;
  if (!(range > 0.0f) || !std::isfinite(range) || !std::isfinite(job.int16.scale))
    refuse("the range of an int16 convolution's input is positive and finite");
  job.int16.saturated = program.saturated_counter();
  const ConvJob to_floats = job;
  job.in.row = job.int16.row, job.in.channel = job.int16.channel;
  const WeightWords word{WordFormat::kInt16,
                         [&words](int o, float weight) { return uint16_t(words.word(o, weight)); }};
  layouts.int16_scales = words.sum_scales(job.int16.scale);
  int64_t sums = 0;
  if (channel_group == 0) {
    set_dense(job, layouts, kernels, word);
    std::vector<float> by_position;
    for (const int32_t channel : layouts.dense.order->channels)
      by_position.push_back(channel < 0 ? 0.0f : layouts.int16_scales[size_t(channel)]);
    layouts.int16_scales = std::move(by_position);
  } else {
    set_sparse(job, layouts, kernels, channel_group, word);
    sums = int64_t(job.channel_block) * kernels.tile.int16_rows * kernels.tile.int16_vectors * 2 *
           kernels.lanes;
  }
  job.in = to_floats.in;
  job.int16_scales = layouts.int16_scales.data();
  program.require_scratch(job.int16.sums + sums);
}

}  // namespace

void add_conv(Program& program, std::shared_ptr<const SparseWeights> weights, Slice input,
              Slice output, std::optional<Slice> residual, const Slopes& slope, int shuffle,
              int channel_group, float input_range) {
  if (!weights) refuse("a convolution needs weights");
  const ConvShape& shape = weights->shape;
  const Kernels& kernels = program.kernels();
  ConvJob job{};
  job.in = program.activation(input), job.out = program.view(output);
  job.shuffle = shuffle;
  std::vector<Footprint> reads{fit_conv(job, shape)};
  program.require_disjoint(job.in, job.out);
  if (residual) {
    job.residual = program.activation(*residual);
    require_same_size(job.residual, job.out);
    program.require_disjoint(job.residual, job.out);
    if (shuffle != 1) refuse("nothing can be added before a pixel shuffle");
    reads.push_back({*residual});
  }
  if (channel_group < kWinograd)
    refuse("a channel group has at least 1 channel, not " + std::to_string(channel_group));
  auto layouts = std::make_shared<Layouts>();
  layouts->weights = weights;
  layouts->slopes = slopes_by_channel(slope, shape.out_channels);
  job.slopes = layouts->slopes.data();
  Kernel<ConvJob> kernel = kernels.sparse_conv;
  int block_rows = kernels.tile.rows;
  const WeightWords words =
      kernels.fused_weights == 2
          ? WeightWords{WordFormat::kBf16, [](int, float weight) { return to_bf16(weight); }}
          : WeightWords();
  if (input_range != 0.0f) {
    set_int16(job, *layouts, program, channel_group, input_range);
    kernel = channel_group == 0 ? kernels.int16_dense_conv : kernels.int16_sparse_conv;
    block_rows = job.int16.rows;
  } else if (channel_group == kWinograd) {
    set_winograd(job, *layouts, program);
    kernel = kernels.winograd_conv, block_rows = kWinogradOutputs;
  } else if (channel_group == 0) {
    set_dense(job, *layouts, kernels, words);
    kernel = kernels.dense_conv;
  } else {
    set_sparse(job, *layouts, kernels, channel_group, words);
    program.require_scratch(int64_t(job.channel_block) * kernels.tile.rows * kernels.tile.vectors *
                            kernels.lanes);
  }
  const auto keep = [layouts](const ConvJob&, const RunArguments&) {};  // for the job's pointers
  program.add(kernel, job, {job.rows, block_rows, std::move(reads), output, shuffle}, keep);
}

}  // namespace thinlens
