// Which weights of a convolution live?
#include "table.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace thinlens {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void check(const Shape& s) {
  constexpr int most_channels = 1 << 16, most_kernel = 31;
  if (std::min(s.c_in, s.c_out) < 1 || std::max(s.c_in, s.c_out) > most_channels)
    refuse("a convolution has 1 to 65536 channels");
  if (std::min(s.kernel_y, s.kernel_x) < 1 || std::max(s.kernel_y, s.kernel_x) > most_kernel)
    refuse("a kernel is 1 to 31 pixels wide and high");
  if (s.stride < 1 || s.stride > 2) refuse("a stride is 1 or 2");
  if (s.padding < 0 || s.padding > most_kernel || s.dilation < 1 || s.dilation > most_kernel)
    refuse("padding is 0 to 31 and dilation 1 to 31");
}

// Two entries of an output channel make a pair; an odd last one is paired with itself, times 0.
void merge(Sparse* made) {
  std::vector<int32_t> starts{0};
  for (size_t i = 0; i + 1 < made->starts.size(); ++i) {
    const int32_t end = made->starts[i + 1];
    for (int32_t e = made->starts[i]; e < end; e += 2) {
      const Entry& first = made->entries[e];
      const Entry& second = made->entries[e + 1 < end ? e + 1 : e];
      const uint32_t upper = e + 1 < end ? rounded(second.weight) : 0;
      made->pairs.push_back({first.offset, second.offset, rounded(first.weight) | upper << 16});
    }
    starts.push_back(int32_t(made->pairs.size()));
  }
  made->starts = std::move(starts);
}

}  // namespace

Table::Table(Shape s, std::vector<int32_t> starts_, std::vector<int32_t> positions_,
             std::vector<float> values_, std::vector<float> bias_)
    : shape(s),
      starts(std::move(starts_)),
      positions(std::move(positions_)),
      values(std::move(values_)),
      bias(std::move(bias_)) {
  check(shape);
  const int64_t taps = int64_t(shape.kernel_y) * shape.kernel_x * shape.c_in;
  const size_t c_out = size_t(shape.c_out);
  if (taps > INT32_MAX || positions.size() > size_t(INT32_MAX)) refuse("a table is too large");
  if (starts.size() != c_out + 1 || bias.size() != c_out)
    refuse("a table needs one start and one bias for each output channel, and a last start");
  if (positions.size() != values.size()) refuse("a table needs one value for each position");
  if (starts.front() != 0 || starts.back() != int32_t(positions.size()))
    refuse("a table's starts must run from 0 to the number of its positions");
  for (size_t o = 0; o < c_out; ++o)
    if (starts[o] > starts[o + 1]) refuse("a table's starts must not fall");
  for (size_t o = 0; o < c_out; ++o)
    for (int32_t i = starts[o]; i < starts[o + 1]; ++i) {
      if (positions[i] < 0 || positions[i] >= taps) refuse("a table's position is out of range");
      if (i > starts[o] && positions[i] <= positions[i - 1])
        refuse("a table's positions must rise within an output channel");
    }
}

int64_t Table::offset(const View& in, const Kernels& kernels, int position) const {
  const int c = position % shape.c_in, tap = position / shape.c_in;
  const int dy = tap / shape.kernel_x * shape.dilation - shape.padding;
  const int dx = tap % shape.kernel_x * shape.dilation - shape.padding;
  return dy * in.row + c * in.channel + int64_t(dx) * kernels.lanes * kernels.bytes;
}

Sparse Table::order(const View& in, const Kernels& kernels, int group) const {
  Sparse made;
  std::vector<Entry>& entries = made.entries;
  entries.reserve(values.size());
  made.starts.assign(1, 0);
  for (int first = 0; first < shape.c_in; first += group)
    for (int o = 0; o < shape.c_out; ++o) {
      for (int32_t i = starts[o]; i < starts[o + 1]; ++i) {
        const int c = positions[i] % shape.c_in;
        if (c >= first && c < first + group)
          entries.push_back({int32_t(offset(in, kernels, positions[i])), values[i]});
      }
      const auto begin = entries.begin() + made.starts.back();
      std::sort(begin, entries.end(),
                [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
      // Every other channel walks back, so that it starts on what the cache holds.
      if (o % 2) std::reverse(begin, entries.end());
      made.starts.push_back(int32_t(entries.size()));
    }
  if (kernels.merged == 2) merge(&made);
  return made;
}

Dense Table::fill(const View& in, const Kernels& kernels) const {
  Dense made;
  const int taps = shape.kernel_y * shape.kernel_x * shape.c_in, block = kernels.block;
  const int blocks = (shape.c_out + block - 1) / block, merged = kernels.merged;
  const int steps = (taps + merged - 1) / merged;  // an odd last tap is paired with itself, times 0
  for (int t = 0; t < steps * merged; ++t)
    made.offsets.push_back(int32_t(offset(in, kernels, std::min(t, taps - 1))));
  made.weights.assign(size_t(blocks) * steps * block, 0);
  for (int o = 0; o < shape.c_out; ++o)
    for (int32_t i = starts[o]; i < starts[o + 1]; ++i) {
      const int step = positions[i] / merged, half = positions[i] % merged;
      uint32_t& to = made.weights[(size_t(o / block) * steps + step) * block + o % block];
      if (merged == 1)
        std::memcpy(&to, &values[i], sizeof to);
      else
        to |= uint32_t(rounded(values[i])) << (16 * half);
    }
  return made;
}

}  // namespace thinlens
