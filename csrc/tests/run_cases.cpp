// A test driver without Python: run_cases [--kernels NAME] FILE...
//
// It builds the programs of files of cases through the classes that module.cpp binds, runs each
// with the kernels that have the file's lanes and storage, and compares the results. The last line
// counts; the exit status is 1 where a result differs or no kernels fit a file.
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>

#include "conv_op.h"
#include "dispatch.h"
#include "operations.h"
#include "tests/case_file.h"

namespace thinlens {
namespace {

Slice read_slice(CaseFile& f) {
  const int tensor = f.i32(), first = f.i32(), channels = f.i32();
  return {tensor, first, channels};
}

Axes read_axes(CaseFile& f) {
  const int vertical = f.i32(), horizontal = f.i32();
  return {vertical, horizontal};
}

void add_tensor(Program& program, CaseFile& f) {
  const int64_t offset = f.i64();
  Shape shape{};
  shape.channels = f.i32(), shape.height = f.i32(), shape.width = f.i32();
  shape.row_vectors = f.i32(), shape.halo = f.i32(), shape.fp32_storage = f.i32() != 0;
  LineBuffer buffer{};
  buffer.rows = f.i32(), buffer.copies = f.i32(), buffer.wrap = f.i32();
  program.tensor(offset, shape, buffer);
}

void add_convolution(Program& program, CaseFile& f) {
  ConvShape shape{};
  shape.in_channels = f.i32(), shape.out_channels = f.i32();
  shape.kernel_height = f.i32(), shape.kernel_width = f.i32();
  shape.padding = read_axes(f), shape.stride = read_axes(f), shape.dilation = read_axes(f);
  shape.groups = f.i32();
  auto starts = f.array<int32_t>(), indices = f.array<int32_t>();
  auto values = f.array<float>(), bias = f.array<float>();
  const auto weights = std::make_shared<const SparseWeights>(
      shape, std::move(starts), std::move(indices), std::move(values), std::move(bias));
  const Slice input = read_slice(f), output = read_slice(f), residual = read_slice(f);
  const std::vector<float> slopes = f.array<float>();
  const int shuffle = f.i32(), channel_group = f.i32();
  const float input_range = f.f32();
  add_conv(
      program, weights, input, output, residual.tensor < 0 ? std::nullopt : std::optional(residual),
      slopes.size() == 1 ? Slopes(slopes[0]) : Slopes(slopes), shuffle, channel_group, input_range);
}

void add_instructions(Program& program, CaseFile& f) {
  const size_t input_count = size_t(f.i32());
  std::vector<Slice> inputs(input_count);
  for (Slice& input : inputs) input = read_slice(f);
  const Slice output = read_slice(f);
  std::vector<PointwiseInstruction> instructions;
  for (int count = f.i32(); count > 0; --count) {
    const std::string operation = f.string();
    const auto operands = f.array<int32_t>(), constants = f.array<int32_t>();
    instructions.emplace_back(operation, operands, constants);
  }
  add_pointwise(program, inputs, output, instructions, f.array<float>());
}

std::shared_ptr<const Windows> read_windows(CaseFile& f) {
  auto begins = f.array<int32_t>(), ends = f.array<int32_t>();
  return std::make_shared<const Windows>(std::move(begins), std::move(ends));
}

std::shared_ptr<const Taps> read_taps(CaseFile& f) {
  auto indices = f.array<int32_t>();
  auto weights = f.array<float>();
  return std::make_shared<const Taps>(std::move(indices), std::move(weights), f.i32());
}

void add_other(Program& program, CaseFile& f, Command command) {
  const Slice input = read_slice(f);
  if (command == Command::pack || command == Command::unpack) {
    if (command == Command::unpack) return add_unpack(program, input, f.i32());
    const int first_channel = f.i32();
    return add_pack(program, input, first_channel, f.i32());
  }
  const Slice output = read_slice(f);
  if (command == Command::resize) return add_resize(program, input, output);
  if (command == Command::channel_norm) {
    auto weight = f.array<float>(), bias = f.array<float>();
    return add_channel_norm(program, input, output, std::move(weight), std::move(bias), f.f32());
  }
  if (command == Command::max_pool) {
    const auto rows = read_windows(f), columns = read_windows(f);
    return add_max_pool(program, input, output, rows, columns, f.i32());
  }
  if (command == Command::resample) {
    const auto rows = read_taps(f), columns = read_taps(f);
    const float fill = f.f32();
    return add_resample(program, input, output, rows, columns, fill, f.i32());
  }
  const std::string reduction = f.string();
  if (command == Command::reduce_channels) {
    const int count = f.i32(), first = f.i32(), step = f.i32();
    return add_reduce_channels(program, input, output, reduction, count, first, step, f.i32());
  }
  if (command != Command::reduce_space) throw std::runtime_error("there is no such command");
  const int group = f.i32();
  add_reduce_space(program, input, output, reduction, group, f.i32());
}

void add_stream(Program& program, CaseFile& f) {
  const int first = f.i32();
  const size_t strip_count = size_t(f.i32());
  std::vector<std::vector<std::vector<int>>> strips(strip_count);
  for (auto& strip : strips) {
    strip.resize(size_t(f.i32()));
    for (auto& rows : strip) rows = f.array<int32_t>();
  }
  program.stream(first, strips);
}

struct Images {  // [B, C, H, W]
  int count, channels, height, width;

  explicit Images(CaseFile& f) {
    count = f.i32(), channels = f.i32(), height = f.i32(), width = f.i32();
  }
  int64_t size() const { return int64_t(channels) * height * width; }
  template <class Float>
  Image<Float> image(Float* data, int rows) const {
    return {data, channels, rows, width, int64_t(rows) * width, width, 1};
  }
};

// Return how many results are farther from what is expected than `absolute` and `relative` allow.
int64_t count_wrong(const std::vector<float>& results, const std::vector<double>& expected,
                    double absolute, double relative) {
  int64_t wrong = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double result = results[i], want = expected[i];
    const bool same = result == want || (std::isnan(result) && std::isnan(want));
    if (!same && !(std::abs(result - want) <= absolute + relative * std::abs(want))) ++wrong;
  }
  return wrong;
}

// Rows [top, bottom) of a band into the whole result.
void copy_rows(const Images& out, const std::vector<float>& band, int top, int bottom,
               std::vector<float>* whole) {
  const int64_t rows = bottom - top;
  for (int c = 0; c < out.channels; ++c)
    std::copy_n(band.begin() + c * rows * out.width, rows * out.width,
                whole->begin() + (int64_t(c) * out.height + top) * out.width);
}

// Run a program on images, by bands of row blocks or whole, with one thread and with several.
std::string run(Program& program, CaseFile& f, int threads, bool by_bands) {
  const Images in(f), out(f);
  const std::vector<float> images = f.array<float>();
  const std::vector<double> expected = f.array<double>();
  const double absolute = f.f64(), relative = f.f64();
  const std::vector<int32_t> bands = by_bands ? f.array<int32_t>() : std::vector<int32_t>{};
  if (int64_t(images.size()) != in.count * in.size() ||
      int64_t(expected.size()) != out.count * out.size())
    throw std::runtime_error("images are not of their size");
  for (const int pool_size : {1, threads}) {
    ThreadPool pool(pool_size);
    std::vector<float> results(expected.size(), std::numeric_limits<float>::quiet_NaN());
    for (int b = 0; b < in.count; ++b) {
      RunArguments arguments{{in.image(images.data() + b * in.size(), in.height)}, {}, {}};
      if (!by_bands) {
        arguments.outputs = {out.image(results.data() + b * out.size(), out.height)};
        program.run(pool, arguments);
      }
      for (size_t i = 0; i + 4 <= bands.size(); i += 4) {  // first block, last block, rows
        const int top = bands[i + 2], bottom = bands[i + 3];
        std::vector<float> band(size_t(out.channels) * std::max(1, bottom - top) * out.width);
        arguments.outputs = {out.image(band.data(), std::max(1, bottom - top))};
        program.run_blocks(pool, arguments, bands[i], bands[i + 1], top);
        if (bottom > top) copy_rows(out, band, top, bottom, &results);
      }
    }
    if (const int64_t wrong = count_wrong(results, expected, absolute, relative))
      return std::to_string(wrong) + " of " + std::to_string(expected.size()) +
             " values are wrong with " + std::to_string(pool_size) + " threads";
  }
  return "";
}

// Return what is wrong with a case; nothing where its results are right.
std::string run_case(CaseFile& f, const Kernels& kernels, std::string* name) {
  *name = f.string();
  const int threads = f.i32();
  Program program(kernels, f.i64());
  std::string failure;
  for (int commands = f.i32(); commands > 0; --commands) {
    const Command command = Command(f.i32());
    switch (command) {
      case Command::tensor:
        add_tensor(program, f);
        break;
      case Command::conv:
        add_convolution(program, f);
        break;
      case Command::pointwise:
        add_instructions(program, f);
        break;
      case Command::stream:
        add_stream(program, f);
        break;
      case Command::run:
      case Command::run_blocks: {
        const std::string one = run(program, f, threads, command == Command::run_blocks);
        if (failure.empty()) failure = one;
        break;
      }
      default:
        add_other(program, f, command);
    }
  }
  return failure;
}

// Return how many cases fail.
int run_file(const std::string& path, const Kernels& kernels) {
  CaseFile f(path);
  int failed = 0;
  for (int i = 0; i < f.cases; ++i) {
    std::string name;
    const std::string failure = run_case(f, kernels, &name);
    if (failure.empty()) continue;
    ++failed;
    std::printf("%s: %s: %s\n", kernels.name, name.c_str(), failure.c_str());
  }
  if (!f.at_end()) throw std::runtime_error(path + " goes on after its last case");
  std::printf("%s: %d cases, %d failed (%s)\n", kernels.name, f.cases, failed, path.c_str());
  return failed;
}

std::vector<const Kernels*> fitting_kernels(const std::string& path, const std::string& only) {
  const CaseFile f(path);
  std::vector<const Kernels*> fitting;
  for (const char* storage : {"fp32", "bf16"})
    for (const Kernels* kernels : available_kernels(storage))
      if (kernels->lanes == f.lanes && kernels->value_bytes == f.value_bytes &&
          (only.empty() || only == kernels->name))
        fitting.push_back(kernels);
  return fitting;
}

int run_files(const std::vector<std::string>& paths, const std::string& only) {
  int failed = 0;
  for (const std::string& path : paths) {
    const auto kernels = fitting_kernels(path, only);
    if (kernels.empty()) throw std::runtime_error("no kernels of this CPU fit " + path);
    for (const Kernels* one : kernels) failed += run_file(path, *one);
  }
  return failed;
}

}  // namespace
}  // namespace thinlens

int main(int count, char** words) {
  std::vector<std::string> paths(words + 1, words + count);
  std::string only;
  if (paths.size() > 1 && paths[0] == "--kernels") {
    only = paths[1];
    paths.erase(paths.begin(), paths.begin() + 2);
  }
  try {
    if (paths.empty()) throw std::runtime_error("wanted [--kernels NAME] FILE...");
    return thinlens::run_files(paths, only) ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_cases: %s\n", error.what());
    return 1;
  }
}
