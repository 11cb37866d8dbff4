// A network as a program: its arena, its tensors, and how its steps run.
#include "program.h"

#include <string>

#include "errors.h"
#include "system.h"

namespace thinlens {
namespace {

constexpr int kMaxImages = 1 << 20;

// Bytes from a channel's row to the next: an odd number of cache lines, so that the channels of a
// patch do not compete for the same few sets of the cache.
int64_t channel_bytes(int64_t vector, int row_vectors, int halo) {
  const int64_t bytes = int64_t(row_vectors + 2 * halo) * vector;
  return ((bytes + kCacheLine - 1) / kCacheLine | 1) * kCacheLine;
}

// Bytes from a row to the next: `skew` cache lines past a multiple of 4 KiB. Rows that a tile reads
// together would else share their sets (and halve the speed, measured on Zen 3).
int64_t row_bytes(int64_t channels, int64_t channel) {
  constexpr int64_t sets = 64, skew = 5;
  const int64_t lines = channels * channel / kCacheLine;
  return (lines + ((skew - lines) % sets + sets) % sets) * kCacheLine;
}

int64_t vector_bytes(const Kernels& kernels, bool fp32_storage) {
  return kernels.lanes * (fp32_storage ? int64_t(sizeof(float)) : kernels.value_bytes);
}

int rows_in_memory(const Shape& s, const LineBuffer& b) {
  return b.rows ? b.rows : s.height + 2 * s.halo;
}

std::shared_ptr<float> allocate_pages(int64_t floats) {
  const int64_t bytes = floats * int64_t(sizeof(float));
  std::shared_ptr<float> pages = system_pages(bytes);
  if (!pages)
    refuse("there is no memory for activations of " + std::to_string(bytes >> 20) + " MiB");
  return pages;
}

std::shared_ptr<float> allocate_aligned(int64_t floats) {
  return {static_cast<float*>(::operator new(size_t(floats) * sizeof(float), std::align_val_t(64))),
          [](float* p) { ::operator delete(p, std::align_val_t(64)); }};
}

void check(const AxisPlacement& a) {
  constexpr int max = 1 << 24;  // exact as a float
  if (std::min(a.out_first, a.in_first) < 0 || std::min(a.out_size, a.in_size) < 1 ||
      std::max({a.out_first, a.in_first, a.out_size, a.in_size}) > max)
    refuse("a resize's placement is out of range");
}

}  // namespace

void refuse_sizes(const View& a, const View& b) {
  refuse("two tensors of a step differ in size: " + std::to_string(a.channels) + "x" +
         std::to_string(a.height) + "x" + std::to_string(a.width) + " in " +
         std::to_string(a.row_vectors) + " vectors per row, " + std::to_string(b.channels) + "x" +
         std::to_string(b.height) + "x" + std::to_string(b.width) + " in " +
         std::to_string(b.row_vectors));
}

void require_same_size(const View& a, const View& b) {
  if (a.height != b.height || a.width != b.width || a.row_vectors != b.row_vectors ||
      a.channels != b.channels)
    refuse_sizes(a, b);
}

Program::Program(const Kernels& kernels, int64_t arena_floats)
    : kernels_(kernels), floats_(arena_floats) {
  if (arena_floats < 1 || arena_floats > (int64_t(1) << 40))
    refuse("an arena has 1 to 2^40 floats, not " + std::to_string(arena_floats));
  arena_ = allocate_pages(arena_floats);
}

void Program::release() { release_pages(arena_.get(), floats_ * int64_t(sizeof(float))); }

int64_t Program::floats(const Kernels& kernels, const Shape& s, LineBuffer b) {
  constexpr int max_size = 1 << 24, max_halo = 1 << 10, max_copies = 1 << 10;
  if (s.channels < 1 || s.height < 1 || s.row_vectors < 1 || s.halo < 0 || s.channels > max_size ||
      s.height > max_size || s.row_vectors > max_size || s.halo > max_halo || b.rows < 0 ||
      b.rows > s.height + 2 * s.halo || b.copies < 1 || b.copies > max_copies || b.wrap < 0 ||
      b.wrap > b.rows)
    refuse("a tensor's size is out of range");
  if (s.width < 1 || s.width > int64_t(s.row_vectors) * kernels.lanes)
    refuse("a tensor's width is 1 to " + std::to_string(int64_t(s.row_vectors) * kernels.lanes) +
           ", not " + std::to_string(s.width));
  if (s.fp32_storage && s.halo) refuse("a tensor in fp32 storage has no halo");
  const int64_t vector = vector_bytes(kernels, s.fp32_storage);
  const int64_t row = row_bytes(s.channels, channel_bytes(vector, s.row_vectors, s.halo));
  const int rows = rows_in_memory(s, b);
  if (row > (int64_t(1) << 42) / rows / b.copies) refuse("a tensor is too large");
  return row / int64_t(sizeof(float)) * rows * b.copies;
}

int Program::tensor(int64_t offset, const Shape& s, LineBuffer b) {
  const int64_t size = floats(kernels_, s, b);
  if (offset < 0 || offset % 16 || size > floats_ || offset > floats_ - size)
    refuse("a tensor of " + std::to_string(size) + " floats at " + std::to_string(offset) +
           " is outside its arena of " + std::to_string(floats_) + ", or not a multiple of 16");
  View v;
  const int64_t vector = vector_bytes(kernels_, s.fp32_storage);
  v.channel = channel_bytes(vector, s.row_vectors, s.halo);
  v.row = row_bytes(s.channels, v.channel);
  v.data = reinterpret_cast<char*>(arena_.get() + offset) + s.halo * (v.row + vector);
  v.channels = s.channels, v.height = s.height, v.width = s.width;
  v.row_vectors = s.row_vectors, v.halo = s.halo;
  v.fp32_storage = s.fp32_storage && kernels_.value_bytes < int(sizeof(float));
  v.slice = {int(tensors_.size()), 0, s.channels};
  tensors_.push_back(
      {offset, offset + size, v, rows_in_memory(s, b), b.copies, b.wrap, b.rows > 0});
  return v.slice.tensor;
}

View Program::view(const Slice& s) const {
  if (s.tensor < 0 || s.tensor >= int(tensors_.size()))
    refuse("there is no tensor " + std::to_string(s.tensor));
  View v = tensors_[s.tensor].view;
  if (s.first < 0 || s.channels < 1 || s.channels > v.channels || s.first > v.channels - s.channels)
    refuse("a slice of " + std::to_string(s.channels) + " channels from " +
           std::to_string(s.first) + " on is outside its tensor of " + std::to_string(v.channels));
  v.data += s.first * v.channel;
  v.channels = s.channels;
  v.slice = s;
  return v;
}

View Program::activation(const Slice& s) const {
  const View v = view(s);
  if (v.fp32_storage) refuse("only the output of a network is a tensor in fp32 storage");
  return v;
}

void Program::require_disjoint(const View& read, const View& written) const {
  const Slice &a = read.slice, &b = written.slice;
  const Buffer &first = tensors_[a.tensor], &second = tensors_[b.tensor];
  const bool overlap = a.tensor == b.tensor
                           ? a.first < b.first + b.channels && b.first < a.first + a.channels
                           : first.begin < second.end && second.begin < first.end;
  if (overlap) refuse("a step writes over what it reads");
}

void Program::require_input_channels(int image, int channels) {
  if (image < 0 || image >= kMaxImages) refuse("there is no image " + std::to_string(image));
  if (size_t(image) >= input_channels_.size()) input_channels_.resize(size_t(image) + 1, 0);
  input_channels_[image] = std::max(input_channels_[image], channels);
}

void Program::set_output(int image, const View& v) {
  if (image < 0 || image >= kMaxImages) refuse("there is no image " + std::to_string(image));
  if (size_t(image) >= output_sizes_.size()) output_sizes_.resize(size_t(image) + 1);
  output_sizes_[image] = {v.channels, v.height, v.width};
}

void Program::check_images(const Step& step, const RunArguments& run) const {
  if (step.input >= 0) {
    const int wanted = input_channels_[step.input];
    if (size_t(step.input) >= run.inputs.size())
      refuse("input " + std::to_string(step.input) + " is missing");
    const auto& input = run.inputs[step.input];
    if (input.channels != wanted || input.height < 1 || input.width < 1)
      refuse("an input of " + std::to_string(input.channels) +
             " channels does not fit the program, which reads " + std::to_string(wanted));
  }
  if (step.output_image >= 0) {
    const ImageSize& size = output_sizes_[step.output_image];
    if (size_t(step.output_image) >= run.outputs.size())
      refuse("output " + std::to_string(step.output_image) + " is missing");
    const auto& output = run.outputs[step.output_image];
    if (output.channels != size.channels || output.height < 1 || output.width < 1 ||
        output.height > size.height || output.width > size.width)
      refuse("an output of " + std::to_string(output.channels) + "x" +
             std::to_string(output.height) + "x" + std::to_string(output.width) +
             " does not fit the program, which writes " + std::to_string(size.channels) + "x" +
             std::to_string(size.height) + "x" + std::to_string(size.width));
  }
}

void Program::check_arguments(const RunArguments& arguments, int first, int last) const {
  const auto& placements = arguments.placements;
  if (steps_.empty()) refuse("a program without a step cannot run");
  if (first < 0 || first > last || last > int(steps_.size()))
    refuse("there are no steps " + std::to_string(first) + " to " + std::to_string(last));
  for (int i = first; i < last; ++i) check_images(steps_[i], arguments);
  if (!placements.empty() && placements.size() != size_t(placements_))
    refuse(std::to_string(placements_) + " resizes need a placement each, not " +
           std::to_string(placements.size()));
  for (const Placement& placement : placements) check(placement.rows), check(placement.columns);
  if (placements.empty()) return;
  for (const Step& step : steps_)  // its rows are those of its footprint only in a whole image
    if (step.streamed && step.placement >= 0) refuse("a streamed resize resizes whole images");
}

Program::Scratch Program::scratch(const ThreadPool& pool) const {
  Scratch scratch;
  for (int worker = 0; worker < pool.size(); ++worker)
    scratch.push_back(allocate_aligned(std::max<int64_t>(scratch_floats_, 1)));
  return scratch;
}

void Program::run_blocks(ThreadPool& pool, const RunArguments& arguments, int first, int last,
                         int output_top) {
  const int steps = int(steps_.size());
  check_arguments(arguments, 0, steps);
  std::lock_guard<std::mutex> lock(run_mutex_);
  if (groups_.size() != 1 || groups_[0].first != 0 || groups_[0].last != steps ||
      groups_[0].strips.size() != 1)
    refuse("only a program that is one fused group of one strip runs by row blocks");
  FusedGroup& group = groups_[0];
  const Strip& strip = group.strips[0];
  if (first < 0 || first >= last || last > strip.row_blocks() ||
      (first != 0 && first != group.next_block))
    refuse("row blocks run in order: " + std::to_string(first) + " to " + std::to_string(last) +
           " do not follow " + std::to_string(group.next_block));
  for (int i = 0; i < steps; ++i)
    if (steps_[i].output_image >= 0 && (output_top < 0 || strip.rows[first][i] < output_top))
      refuse("an output begins below the rows that are written");
  run_ = arguments;
  for (auto& output : run_.outputs) {
    output.data -= output_top * output.row;
    output.height += output_top;
  }
  if (first == 0) seconds_.assign(steps_.size(), 0.0);
  group.next_block = 0;  // after an exception only the first block may follow
  run_shared(pool, group, scratch(pool), first, last);
  group.next_block = last;
}

void Program::run(ThreadPool& pool, const RunArguments& arguments, int first, int last) {
  if (last < 0) last = int(steps_.size());
  check_arguments(arguments, first, last);
  std::lock_guard<std::mutex> lock(run_mutex_);
  run_ = arguments;
  const Scratch scratch = this->scratch(pool);
  const std::vector<int64_t> no_shifts(tensors_.size(), 0);
  seconds_.resize(steps_.size(), 0.0);
  std::fill(seconds_.begin() + first, seconds_.begin() + last, 0.0);
  for (const Step& step : steps_)
    if (!step.streamed)
      for (int t : tensors_of(step))
        if (tensors_[t].line_buffer) refuse("a line buffer is used outside its fused steps");
  auto group = groups_.begin();
  while (group != groups_.end() && group->first < first) ++group;
  if (group != groups_.begin() && std::prev(group)->last > first)
    refuse("fused steps run together");
  for (int i = first; i < last;) {
    if (group == groups_.end() || i < group->first) {
      run_step(pool, size_t(i), scratch, no_shifts.data());
      ++i;
      continue;
    }
    if (group->last > last) refuse("fused steps run together");
    group->next_block = 0;
    run_group(pool, *group, scratch);
    i = group->last;
    ++group;
  }
}

void Program::run_step(ThreadPool& pool, size_t i, const Scratch& scratch,
                       const int64_t* no_shifts) {
  const Step& step = steps_[i];
  const double start = clock_seconds(pool.size() == 1);
  const int blocks = (step.rows + step.block_rows - 1) / step.block_rows;
  pool.run(blocks, [&](int block, int worker) {
    const int first = block * step.block_rows;
    step.run(first, std::min(first + step.block_rows, step.rows),
             {scratch[worker].get(), no_shifts});
  });
  seconds_[i] = clock_seconds(pool.size() == 1) - start;
}

}  // namespace thinlens
