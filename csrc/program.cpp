// How does a planned network run?
#include "program.h"

#include <sys/mman.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "clock.h"

namespace thinlens {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int kTogether = 64;    // output channels whose partial sums are kept in scratch
constexpr int kRowsAtATime = 8;  // of steps that are not convolutions

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

constexpr int64_t kLine = 64;  // bytes of a cache line

// Bytes from a channel's row to the next: an odd number of lines, so that the channels of a patch do
// not fall into the same few sets of the cache.
int64_t channel_bytes(int64_t vector, int columns, int halo) {
  const int64_t bytes = int64_t(columns + 2 * halo) * vector;
  return ((bytes + kLine - 1) / kLine | 1) * kLine;
}

// Bytes from a row to the next: `skew` lines past a multiple of 4 KiB. Rows that a tile reads
// together would else share their sets (and halve the speed, measured on Zen 3).
int64_t row_bytes(int64_t channels, int64_t channel) {
  constexpr int64_t sets = 64, skew = 5;
  const int64_t lines = channels * channel / kLine;
  return (lines + ((skew - lines) % sets + sets) % sets) * kLine;
}

int64_t value_bytes(const Kernels& kernels, bool wide) {
  return wide ? int64_t(sizeof(float)) : kernels.bytes;
}

std::shared_ptr<float> allocate(int64_t floats) {
  const size_t bytes = size_t(floats) * sizeof(float);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    refuse("there is no memory for activations of " + std::to_string(bytes >> 20) + " MiB");
#ifdef MADV_HUGEPAGE
  if (bytes >= size_t(kHugePage)) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return {static_cast<float*>(memory), [bytes](float* p) { munmap(p, bytes); }};
}

std::shared_ptr<float> aligned(int64_t floats) {
  return {static_cast<float*>(::operator new(size_t(floats) * sizeof(float), std::align_val_t(64))),
          [](float* p) { ::operator delete(p, std::align_val_t(64)); }};
}

void same_grid(const View& a, const View& b) {
  if (a.height != b.height || a.width != b.width || a.columns != b.columns ||
      a.channels != b.channels)
    refuse("two tensors of a step differ in size");
}

}  // namespace

Program::Program(const Kernels& kernels, int64_t arena_floats)
    : kernels_(kernels), floats_(arena_floats) {
  if (arena_floats < 1 || arena_floats > (int64_t(1) << 40)) refuse("an arena's size is wrong");
  arena_ = allocate(arena_floats);
}

void Program::release() {
#ifdef MADV_DONTNEED
  madvise(arena_.get(), size_t(floats_) * sizeof(float), MADV_DONTNEED);
#endif
}

int64_t Program::size(const Kernels& kernels, Grid g, bool wide, int rows, int copies) {
  constexpr int most = 1 << 24, most_halo = 1 << 10, most_copies = 1 << 10;
  if (g.channels < 1 || g.height < 1 || g.columns < 1 || g.halo < 0 ||
      g.channels > most || g.height > most || g.columns > most || g.halo > most_halo ||
      g.halo > g.columns || rows < 0 || rows > g.height + 2 * g.halo ||
      copies < 1 || copies > most_copies)
    refuse("a tensor's size is out of range");
  if (wide && g.halo) refuse("a wide tensor has no halo");
  const int64_t vector = kernels.lanes * value_bytes(kernels, wide);
  const int64_t row = row_bytes(g.channels, channel_bytes(vector, g.columns, g.halo));
  const int room = rows ? rows : g.height + 2 * g.halo;
  if (row > (int64_t(1) << 42) / room / copies) refuse("a tensor is too large");
  return row / int64_t(sizeof(float)) * room * copies;
}

int Program::tensor(int64_t offset, Grid g, int width, bool wide, int rows, int copies) {
  const int64_t floats = size(kernels_, g, wide, rows, copies);
  if (width < 1 || width > int64_t(g.columns) * kernels_.lanes) refuse("a tensor's width is wrong");
  if (offset < 0 || offset % 16 || floats > floats_ || offset > floats_ - floats)
    refuse("a tensor lies outside its arena");
  View v;
  const int64_t vector = kernels_.lanes * value_bytes(kernels_, wide);
  v.channel = channel_bytes(vector, g.columns, g.halo);
  v.row = row_bytes(g.channels, v.channel);
  v.data = reinterpret_cast<char*>(arena_.get() + offset) + g.halo * (v.row + vector);
  v.channels = g.channels, v.height = g.height, v.width = width, v.columns = g.columns;
  v.halo = g.halo;
  v.wide = wide && kernels_.bytes < int(sizeof(float));
  const int room = rows ? rows : g.height + 2 * g.halo;
  tensors_.push_back({offset, offset + floats, v, room, copies, rows > 0});
  return int(tensors_.size()) - 1;
}

View Program::view(const Slice& s) const {
  if (s.tensor < 0 || s.tensor >= int(tensors_.size())) refuse("there is no such tensor");
  View v = tensors_[s.tensor].view;
  if (s.first < 0 || s.channels < 1 || s.channels > v.channels || s.first > v.channels - s.channels)
    refuse("a slice lies outside its tensor");
  v.data += s.first * v.channel;
  v.channels = s.channels;
  return v;
}

View Program::stored(const Slice& s) const {
  const View v = view(s);
  if (v.wide) refuse("only the output of a network is wide");
  return v;
}

void Program::apart(const Slice& a, const Slice& b) const {
  const Memory &first = tensors_[a.tensor], &second = tensors_[b.tensor];
  const bool overlap =
      a.tensor == b.tensor
          ? a.first < b.first + b.channels && b.first < a.first + a.channels
          : first.begin < second.end && second.begin < first.end;
  if (overlap) refuse("a step writes over what it reads");
}

void Program::need_scratch(int64_t floats) { scratch_floats_ = std::max(scratch_floats_, floats); }

void Program::add(int rows, int block, std::function<void(int, int, const Turn&)> work,
                  std::vector<Reach> reads, Slice out, int scale) {
  steps_.push_back({rows, block, std::move(work), std::move(reads), out, scale});
}

View Program::now(const View& view, int tensor, const Turn& turn) {
  View v = view;
  if (v.data) v.data += turn.shifts[tensor];
  return v;
}

void Program::pack(Slice out, int first_channel) {
  const View to = stored(out);
  if (first_channel < 0) refuse("there is no such channel of the input");
  input_channels_ = std::max(input_channels_, first_channel + to.channels);
  need_scratch(to.width);
  const auto work = [this, to, out, first_channel](int begin, int end, const Turn& turn) {
    const Image<const float>& i = input_;
    const PackJob job{now(to, out.tensor, turn), i.data + int64_t(first_channel) * i.height * i.width,
                      nullptr, i.height, i.width};
    kernels_.pack(job, begin, end, turn.scratch);
  };
  add(to.height, kRowsAtATime, work, {}, out);
}

void Program::unpack(Slice in) {
  const View from = view(in);
  output_channels_ = from.channels;
  least_output_height_ = from.height;
  least_output_width_ = from.width;
  const auto work = [this, from, in](int begin, int end, const Turn& turn) {
    const Image<float>& i = output_;
    const PackJob job{now(from, in.tensor, turn), nullptr, i.data, i.height, i.width};
    kernels_.unpack(job, begin, std::min(end, i.height), turn.scratch);
  };
  add(from.height, kRowsAtATime, work, {{in, 1, 0, 0}}, {-1, 0, 0});
}

void Program::conv(std::shared_ptr<const Table> table, Slice in, Slice out, Slice residual,
                   float slope, int shuffle, int group) {
  if (!table) refuse("a convolution needs a table");
  const Shape& s = table->shape;
  ConvJob job{};
  job.in = stored(in), job.out = view(out);
  job.slope = slope, job.c_out = s.c_out, job.stride = s.stride, job.shuffle = shuffle;
  if (shuffle < 1 || shuffle > 8 || s.c_out % (shuffle * shuffle) ||
      job.out.channels != s.c_out / (shuffle * shuffle) || job.in.channels != s.c_in)
    refuse("a convolution's channels do not fit its tensors");
  const int reach_y = s.dilation * (s.kernel_y - 1) - s.padding;
  const int reach_x = s.dilation * (s.kernel_x - 1) - s.padding;
  const int height = (job.in.height + s.padding - reach_y - 1) / s.stride + 1;
  const int width = (job.in.width + s.padding - reach_x - 1) / s.stride + 1;
  const int columns = job.in.columns / s.stride;
  if (job.in.height + s.padding <= reach_y || job.in.width + s.padding <= reach_x)
    refuse("a convolution's kernel is larger than its input");
  if (job.in.columns % s.stride || columns < 1 ||
      job.out.height != height * shuffle || job.out.width != width * shuffle ||
      job.out.columns != columns * shuffle)
    refuse("a convolution's sizes do not fit its tensors");
  // Rows past the last that an output needs are never read; vectors are, in every row.
  if (s.padding > job.in.halo ||
      (height - 1) * s.stride + reach_y >= job.in.height + job.in.halo ||
      (columns - 1) * s.stride + reach_x >= job.in.columns + job.in.halo)
    refuse("a convolution reaches past its input's halo");
  if (job.in.row * (s.kernel_y * s.dilation + 1) > INT32_MAX)
    refuse("a row is too long for a convolution");
  job.above = s.padding, job.below = std::max(reach_y, 0), job.last = height;
  apart(in, out);
  if (residual.tensor >= 0) {
    job.residual = stored(residual);
    same_grid(job.residual, job.out);
    apart(residual, out);
    if (shuffle != 1) refuse("nothing can be added before a pixel shuffle");
  }
  struct Data {
    Sparse sparse;
    Dense dense;
    std::vector<float> bias;
  };
  auto data = std::make_shared<Data>();
  data->bias = table->bias;
  data->bias.resize(s.c_out + kernels_.block, 0.0f);
  job.bias = data->bias.data();
  const bool dense = group == 0;
  if (dense) {
    data->dense = table->fill(job.in, kernels_);
    job.offsets = data->dense.offsets.data();
    job.weights = data->dense.weights.data();
    job.taps = int(data->dense.offsets.size()) / kernels_.merged;
  } else {
    if (group < 1) refuse("a group has at least one channel");
    data->sparse = table->order(job.in, kernels_, group);
    job.entries = data->sparse.items();
    job.starts = data->sparse.starts.data();
    job.groups = (s.c_in + group - 1) / group;
    job.together = job.groups == 1 ? s.c_out : kTogether;
    need_scratch(int64_t(job.together) * kernels_.rows * kernels_.vectors * kernels_.lanes);
  }
  const auto kernel = dense ? kernels_.dense : kernels_.sparse;
  const auto work = [this, job, data, kernel, in, out, residual](int begin, int end,
                                                                 const Turn& turn) {
    ConvJob moved = job;
    moved.in = now(job.in, in.tensor, turn), moved.out = now(job.out, out.tensor, turn);
    moved.residual = now(job.residual, residual.tensor, turn);
    kernel(moved, begin, end, turn.scratch);
  };
  std::vector<Reach> reads{{in, s.stride, s.padding, reach_y}};
  if (residual.tensor >= 0) reads.push_back({residual, 1, 0, 0});
  add(height, kernels_.rows, work, reads, out, shuffle);
}

void Program::combine_step(Slice x, Slice y, Slice out, CombineJob job, std::vector<float> shift) {
  job.x = stored(x), job.out = view(out);
  same_grid(job.x, job.out);
  apart(x, out);
  if (y.tensor >= 0) {
    job.y = stored(y);
    same_grid(job.y, job.out);
    apart(y, out);
  }
  if (shift.size() != size_t(job.out.channels)) refuse("a step needs one shift for each channel");
  const auto work = [this, job, shift, x, y, out](int begin, int end, const Turn& turn) {
    CombineJob moved = job;
    moved.x = now(job.x, x.tensor, turn), moved.y = now(job.y, y.tensor, turn);
    moved.out = now(job.out, out.tensor, turn);
    moved.shift = shift.data();
    kernels_.combine(moved, begin, end, turn.scratch);
  };
  std::vector<Reach> reads{{x, 1, 0, 0}};
  if (y.tensor >= 0) reads.push_back({y, 1, 0, 0});
  add(job.out.height, kRowsAtATime, work, reads, out);
}

void Program::combine(Slice x, Slice y, Slice out, float alpha, float beta,
                      std::vector<float> shift, float slope) {
  combine_step(x, y, out, CombineJob{{}, {}, {}, nullptr, alpha, beta, slope, false}, shift);
}

void Program::gate(Slice x, Slice y, Slice out) {
  if (y.tensor < 0) refuse("a gate needs two tensors");
  std::vector<float> zeros(size_t(std::max(out.channels, 0)), 0.0f);
  combine_step(x, y, out, CombineJob{{}, {}, {}, nullptr, 1.0f, 1.0f, 1.0f, true}, zeros);
}

void Program::pool(Slice in, Slice out, int size, int stride) {
  const PoolJob job{stored(in), stored(out), size, stride};
  if (size < 1 || stride < 1 || job.in.height < size || job.in.width < size ||
      job.in.channels != job.out.channels || job.out.height != (job.in.height - size) / stride + 1 ||
      job.out.width != (job.in.width - size) / stride + 1)
    refuse("a pooling's sizes do not fit its tensors");
  apart(in, out);
  need_scratch(int64_t(job.in.columns + job.out.columns) * kernels_.lanes);
  const auto work = [this, job, in, out](int begin, int end, const Turn& turn) {
    PoolJob moved = job;
    moved.in = now(job.in, in.tensor, turn), moved.out = now(job.out, out.tensor, turn);
    kernels_.pool(moved, begin, end, turn.scratch);
  };
  add(job.out.height, kRowsAtATime, work, {{in, stride, 0, size - 1}}, out);
}

void Program::resize(Slice in, Slice out) {
  ResizeJob job{stored(in), stored(out), {}, {}};
  if (job.in.channels != job.out.channels) refuse("a resize keeps the channels");
  apart(in, out);
  need_scratch(int64_t(2) * job.in.columns * kernels_.lanes);
  job.rows = {0, job.out.height, 0, job.in.height};
  job.columns = {0, job.out.width, 0, job.in.width};
  const int number = resizes_++;
  const auto work = [this, job, in, out, number](int begin, int end, const Turn& turn) {
    ResizeJob moved = job;
    moved.in = now(job.in, in.tensor, turn), moved.out = now(job.out, out.tensor, turn);
    if (!places_.empty()) moved.rows = places_[number][0], moved.columns = places_[number][1];
    kernels_.resize(moved, begin, end, turn.scratch);
  };
  const int all = job.in.height;  // any row may be needed
  add(job.out.height, kRowsAtATime, work, {{in, 1, all, all}}, out);
}

void Program::run(Pool& pool, const Image<const float>& input, const Image<float>& output,
                  const std::vector<Place>& places) {
  if (input.channels != input_channels_ || input.height < 1 || input.width < 1)
    refuse("the input's channels do not fit the plan");
  if (output.channels != output_channels_ || output.height < 1 || output.width < 1 ||
      output.height > least_output_height_ || output.width > least_output_width_)
    refuse("the output's size does not fit the plan");
  if (!places.empty() && places.size() != size_t(resizes_)) refuse("each resize needs a place");
  constexpr int most = 1 << 24;  // floats count up to it
  for (const Place& place : places)
    for (const Along& a : place)
      if (std::min(a.start, a.first) < 0 || std::min(a.whole, a.samples) < 1 ||
          std::max({a.start, a.first, a.whole, a.samples}) > most)
        refuse("a resize's place is out of range");
  std::lock_guard<std::mutex> lock(one_run_);
  input_ = input, output_ = output, places_ = places;
  Scratch scratch;
  for (int worker = 0; worker < pool.size(); ++worker)
    scratch.push_back(aligned(std::max<int64_t>(scratch_floats_, 1)));
  const std::vector<int64_t> unmoved(tensors_.size(), 0);
  seconds_.assign(steps_.size(), 0.0);
  for (const Step& step : steps_)
    if (!step.banded)
      for (int t : touched(step))
        if (tensors_[t].rolls) refuse("a tensor that rolls is used outside its bands");
  auto group = groups_.begin();
  for (size_t i = 0; i < steps_.size();) {
    if (group == groups_.end() || int(i) < group->first) {
      run_rows(pool, i, scratch, unmoved.data());
      ++i;
      continue;
    }
    run_group(pool, *group, scratch);
    i = size_t(group->last);
    ++group;
  }
}

void Program::run_rows(Pool& pool, size_t i, const Scratch& scratch, const int64_t* unmoved) {
  const Step& step = steps_[i];
  const double start = thinlens::now(pool.size() == 1);
  pool.run((step.rows + step.block - 1) / step.block, [&](int block, int worker) {
    const int first = block * step.block;
    step.work(first, std::min(first + step.block, step.rows),
              {scratch[worker].get(), unmoved});
  });
  seconds_[i] = thinlens::now(pool.size() == 1) - start;
}

}  // namespace thinlens
