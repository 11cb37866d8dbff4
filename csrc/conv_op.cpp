// Addition of a convolution to a program: validation of its arguments, and the choice of its
// kernel.
#include "conv_op.h"

#include <algorithm>
#include <cstdlib>

#include "errors.h"
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

}  // namespace

void add_conv(Program& program, std::shared_ptr<const SparseWeights> weights, Slice input,
              Slice output, std::optional<Slice> residual, const Slopes& slope, int shuffle,
              int channel_group) {
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
  struct Layouts {
    SparseLayout sparse;
    DenseLayout dense;
    std::vector<float> slopes, winograd;
    std::shared_ptr<const SparseWeights> weights;
  };
  auto layouts = std::make_shared<Layouts>();
  layouts->slopes = slopes_by_channel(slope, shape.out_channels);
  job.slopes = layouts->slopes.data();
  if (channel_group == 0) {
    layouts->dense = weights->dense_layout(job.in, kernels, shuffle);
    job.bias = layouts->dense.bias.data();
    job.offsets = layouts->dense.offsets.data();
    job.weights = layouts->dense.weights.data();
    job.blocks = layouts->dense.blocks.data();
    job.channels = layouts->dense.channels.data();
    job.block_count = int(layouts->dense.blocks.size());
  } else if (channel_group == kWinograd) {
    layouts->weights = weights;
    job.bias = weights->bias.data();
    job.winograd = winograd_scratch(shape, kernels);
    layouts->winograd =
        winograd_weights(*weights, kernels.tile.product_channels, job.winograd.channels);
    job.weights = layouts->winograd.data();
    program.require_scratch(job.winograd.products +
                            kWinogradPositions * job.winograd.product_position);
  } else {
    layouts->weights = weights;
    job.bias = weights->bias.data();
    layouts->sparse = weights->sparse_layout(job.in, kernels, channel_group);
    job.nonzeros = layouts->sparse.data();
    job.starts = layouts->sparse.starts.data();
    job.channel_groups = (shape.in_channels + channel_group - 1) / channel_group;
    job.channel_block = job.channel_groups == 1 ? shape.out_channels : kChannelBlock;
    const Tile& tile = kernels.tile;
    program.require_scratch(int64_t(job.channel_block) * tile.rows * tile.vectors * kernels.lanes);
  }
  const auto keep = [layouts](const ConvJob&, const RunArguments&) {};  // for the job's pointers
  const bool winograd = channel_group == kWinograd;
  const Kernel<ConvJob> kernel = winograd             ? kernels.winograd_conv
                                 : channel_group == 0 ? kernels.dense_conv
                                                      : kernels.sparse_conv;
  const int block_rows = winograd ? kWinogradOutputs : kernels.tile.rows;
  program.add(kernel, job, {job.rows, block_rows, std::move(reads), output, shuffle}, keep);
}

}  // namespace thinlens
