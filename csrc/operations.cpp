// The operations of a program: validation of their arguments.
#include "operations.h"

#include <iterator>

#include "errors.h"

namespace thinlens {
namespace {

constexpr int kMaxChannel = 1 << 24;
constexpr int kPackRows = 16;  // plain rows of scratch: micro/pack.h's kPackChannels
constexpr int kBlockRows = 8;  // rows at a time, of operations other than convolutions

const auto kBindNothing = [](const auto&, const RunArguments&) {};

// Which sizes of an input are 1 where the output's are not: its values are broadcast.
Footprint broadcast_footprint(const View& in, const View& out) {
  const auto fits = [](int size, int to) { return size == to || size == 1; };
  if (!fits(in.channels, out.channels) || !fits(in.height, out.height) ||
      !fits(in.width, out.width) || (in.width == out.width && in.row_vectors != out.row_vectors))
    refuse_sizes(in, out);
  return {in.slice, in.height == out.height ? 1 : 0};
}

Reduction reduction_of(const std::string& name) {
#define THINLENS_REDUCTION(name) #name,
  constexpr const char* names[] = {THINLENS_REDUCTIONS(THINLENS_REDUCTION)};
#undef THINLENS_REDUCTION
  for (size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return Reduction(i);
  refuse("there is no reduction " + name);
}

// What the sum of `values` is divided by.
double divisor_of(double values, int correction) {
  if (correction < 0 || correction >= values)
    refuse("a variance of " + std::to_string(int64_t(values)) + " values has no correction of " +
           std::to_string(correction));
  return values - correction;
}

}  // namespace

void add_pack(Program& program, Slice output, int first_channel, int image) {
  PackJob job{};
  job.out = program.activation(output);
  if (first_channel < 0 || first_channel > kMaxChannel)
    refuse("there is no channel " + std::to_string(first_channel));
  program.require_input_channels(image, first_channel + job.out.channels);
  program.require_scratch(int64_t(kPackRows) * job.out.width);
  const auto bind = [first_channel, image](PackJob& bound, const RunArguments& run) {
    const Image<const float>& from = run.inputs[size_t(image)];
    bound.image = from.data + first_channel * from.channel;
    bound.height = from.height, bound.width = from.width;
    bound.channel = from.channel, bound.row = from.row, bound.column = from.column;
  };
  Step step{job.out.height, kBlockRows, {}, output};
  step.input = image;
  program.add(program.kernels().pack, job, std::move(step), bind);
}

void add_unpack(Program& program, Slice input, int image) {
  UnpackJob job{};
  job.in = program.view(input);
  program.set_output(image, job.in);
  program.require_scratch(int64_t(kPackRows) * job.in.width);
  const auto bind = [image](UnpackJob& bound, const RunArguments& run) {
    const Image<float>& to = run.outputs[size_t(image)];
    bound.image = to.data;
    bound.height = to.height, bound.width = to.width;
    bound.channel = to.channel, bound.row = to.row, bound.column = to.column;
  };
  Step step{job.in.height, kBlockRows, {{input}}, kNoSlice};
  step.output_image = image;
  program.add(program.kernels().unpack, job, std::move(step), bind);
}

void add_pointwise(Program& program, const std::vector<Slice>& inputs, Slice output,
                   const std::vector<PointwiseInstruction>& instructions,
                   std::vector<float> constants) {
  PointwiseJob job{};
  job.out = program.view(output);
  if (inputs.empty() || inputs.size() > size_t(kPointwiseInputs))
    refuse("a step reads 1 to " + std::to_string(kPointwiseInputs) + " tensors, not " +
           std::to_string(inputs.size()));
  std::vector<Footprint> reads;
  for (const Slice& input : inputs) {
    View& view = job.in[size_t(job.inputs++)] = program.activation(input);
    reads.push_back(broadcast_footprint(view, job.out));
    program.require_disjoint(view, job.out);
  }
  if (constants.size() % size_t(job.out.channels))
    refuse("a step needs constants for each of " + std::to_string(job.out.channels) +
           " channels, not " + std::to_string(constants.size()) + " in all");
  job.channel_constants = int(constants.size() / size_t(job.out.channels));
  struct Layouts {
    PointwiseProgram program;
    std::vector<float> constants;
  };
  auto layouts = std::make_shared<Layouts>();
  layouts->program = pointwise_program(instructions, job.inputs, job.channel_constants);
  layouts->constants = std::move(constants);
  layouts->constants.push_back(0.0f);  // so that there is a constant where none is used
  job.steps = layouts->program.steps.data();
  job.count = int(layouts->program.steps.size());
  job.results = layouts->program.results;
  job.constants = layouts->constants.data();
  job.operand_constants = layouts->program.operand_constants.data();
  job.operand_constant_count = int(layouts->program.operand_constants.size());
  program.require_scratch(int64_t(job.sources()) * kPointwiseBlock * program.kernels().lanes);
  const auto keep = [layouts](const PointwiseJob&, const RunArguments&) {};
  program.add(program.kernels().pointwise, job,
              {job.out.height, kBlockRows, std::move(reads), output}, keep);
}

void add_reduce_channels(Program& program, Slice input, Slice output, const std::string& reduction,
                         int count, int first, int step, int correction) {
  ReduceChannelsJob job{};
  job.in = program.activation(input), job.out = program.view(output);
  job.reduction = reduction_of(reduction);
  job.count = count, job.first = first, job.step = step;
  if (job.in.height != job.out.height || job.in.width != job.out.width ||
      job.in.row_vectors != job.out.row_vectors)
    refuse_sizes(job.in, job.out);
  if (std::min(count, step) < 1 || first < 0 || std::max({count, step, first}) > kMaxChannel ||
      int64_t(job.out.channels - 1) * first + int64_t(count - 1) * step >= job.in.channels)
    refuse("a reduction's channels do not fit its tensors");
  job.divisor = float(divisor_of(count, correction));
  program.require_disjoint(job.in, job.out);
  program.add(program.kernels().reduce_channels, job,
              {job.out.height, kBlockRows, {{input}}, output}, kBindNothing);
}

void add_reduce_space(Program& program, Slice input, Slice output, const std::string& reduction,
                      int group, int correction) {
  ReduceSpaceJob job{};
  job.in = program.activation(input), job.out = program.view(output);
  job.reduction = reduction_of(reduction), job.group = group;
  if (job.out.height != 1 || job.out.width != 1 || job.out.channels != job.in.channels)
    refuse_sizes(job.in, job.out);
  if (group < 1 || job.in.channels % group)
    refuse("a group of " + std::to_string(group) + " channels does not divide " +
           std::to_string(job.in.channels));
  job.divisor = divisor_of(double(group) * job.in.height * job.in.width, correction);
  program.require_disjoint(job.in, job.out);
  program.require_scratch(int64_t(job.in.row_vectors) * program.kernels().lanes);
  Step step{job.in.channels / group, 1, {{input}}, output};
  step.whole = true;
  program.add(program.kernels().reduce_space, job, std::move(step), kBindNothing);
}

void add_channel_norm(Program& program, Slice input, Slice output, std::vector<float> weight,
                      std::vector<float> bias, float epsilon) {
  ChannelNormJob job{};
  job.in = program.activation(input), job.out = program.view(output), job.epsilon = epsilon;
  require_same_size(job.in, job.out);
  program.require_disjoint(job.in, job.out);
  if (weight.size() != size_t(job.out.channels) || bias.size() != weight.size())
    refuse("a normalization needs a weight and a bias for each of " +
           std::to_string(job.out.channels) + " channels");
  const auto bind = [weight, bias](ChannelNormJob& bound, const RunArguments&) {
    bound.weight = weight.data(), bound.bias = bias.data();
  };
  program.add(program.kernels().channel_norm, job, {job.out.height, kBlockRows, {{input}}, output},
              bind);
}

void add_range(Program& program, Slice input) {
  RangeJob job{program.activation(input), program.next_range()};
  program.add(program.kernels().range, job, {job.in.height, kBlockRows, {{input}}, kNoSlice},
              kBindNothing);
}

void add_max_pool(Program& program, Slice input, Slice output, std::shared_ptr<const Windows> rows,
                  std::shared_ptr<const Windows> columns, int stride) {
  PoolJob job{};
  job.in = program.activation(input), job.out = program.activation(output);
  if (!rows || !columns || job.in.channels != job.out.channels)
    refuse("a pooling keeps the channels, and has windows of rows and of columns");
  rows->require_fit(job.out.height, job.in.height);
  columns->require_fit(job.out.width, job.in.width);
  program.require_disjoint(job.in, job.out);
  program.require_scratch(int64_t(job.in.row_vectors + job.out.row_vectors) *
                          program.kernels().lanes);
  job.row_begins = rows->begins.data(), job.row_ends = rows->ends.data();
  job.column_begins = columns->begins.data(), job.column_ends = columns->ends.data();
  const auto keep = [rows, columns](const PoolJob&, const RunArguments&) {};
  program.add(program.kernels().max_pool, job,
              {job.out.height, kBlockRows, {footprint_of(input, *rows, stride)}, output}, keep);
}

void add_resample(Program& program, Slice input, Slice output, std::shared_ptr<const Taps> rows,
                  std::shared_ptr<const Taps> columns, float fill, int stride) {
  ResampleJob job{};
  job.in = program.activation(input), job.out = program.activation(output);
  if (!rows || !columns || job.in.channels != job.out.channels)
    refuse("a resampling keeps the channels, and has taps of rows and of columns");
  job.is_index_map = rows->is_index_map() && columns->is_index_map();
  rows->require_fit(job.out.height, job.in.height, job.is_index_map);
  columns->require_fit(job.out.width, job.in.width, job.is_index_map);
  program.require_disjoint(job.in, job.out);
  const int lanes = program.kernels().lanes;
  program.require_scratch(int64_t(job.in.row_vectors) * lanes);
  struct Tables {
    std::shared_ptr<const Taps> rows;
    ColumnTable columns;
  };
  auto tables = std::make_shared<Tables>(
      Tables{rows, column_table(*columns, job.in.row_vectors, job.out, lanes)});
  job.vectors = tables->columns.vectors.data();
  job.rows = rows->indices.data(), job.row_weights = rows->weights.data();
  job.row_taps = rows->taps, job.column_taps = columns->taps, job.fill = fill;
  job.columns = tables->columns.places.data(), job.column_weights = tables->columns.weights.data();
  const auto keep = [tables](const ResampleJob&, const RunArguments&) {};
  program.add(program.kernels().resample, job,
              {job.out.height, kBlockRows, {footprint_of(input, *rows, stride)}, output}, keep);
}

void add_resize(Program& program, Slice input, Slice output) {
  ResizeJob job{program.activation(input), program.activation(output), {}};
  if (job.in.channels != job.out.channels) refuse("a resize keeps the channels");
  program.require_disjoint(job.in, job.out);
  const int64_t vectors = int64_t(2) * job.in.row_vectors + int64_t(3) * job.out.row_vectors;
  program.require_scratch(vectors * program.kernels().lanes);
  job.placement.rows = {0, job.out.height, 0, job.in.height};
  job.placement.columns = {0, job.out.width, 0, job.in.width};
  const int number = program.next_placement();
  const auto bind = [number](ResizeJob& bound, const RunArguments& run) {
    if (!run.placements.empty()) bound.placement = run.placements[number];
  };
  const Footprint read = resize_footprint(input, job.in.height, job.out.height);
  Step step{job.out.height, kBlockRows, {read}, output};
  step.placement = number;
  program.add(program.kernels().resize, job, std::move(step), bind);
}

}  // namespace thinlens
