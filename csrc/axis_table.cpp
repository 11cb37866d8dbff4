// What a step reads along one axis, by output row or column: validation.
#include "axis_table.h"

#include <algorithm>
#include <string>

#include "errors.h"

namespace thinlens {
namespace {

constexpr int kMaxStride = 1 << 10;

void widen(Footprint* footprint, int64_t row, int first, int last) {
  footprint->above = std::max<int>(footprint->above, int(row * footprint->stride - first));
  footprint->below = std::max<int>(footprint->below, int(last - row * footprint->stride));
}

Footprint empty_footprint(const Slice& slice, int stride) {
  if (stride < 1 || stride > kMaxStride)
    refuse("a table's stride is 1 to 1024, not " + std::to_string(stride));
  return {slice, stride, 0, 0};
}

}  // namespace

Taps::Taps(std::vector<int32_t> indices_, std::vector<float> weights_, int taps_)
    : indices(std::move(indices_)), weights(std::move(weights_)), taps(taps_) {
  if (taps < 1 || indices.empty() || indices.size() % size_t(taps) ||
      indices.size() != weights.size() || indices.size() > size_t(INT32_MAX))
    refuse("a table needs an index and a weight for each tap of each output, not " +
           std::to_string(indices.size()) + " and " + std::to_string(weights.size()));
}

bool Taps::is_index_map() const {
  return taps == 1 && std::all_of(weights.begin(), weights.end(), [](float w) { return w == 1; });
}

void Taps::require_fit(int count, int size, bool allow_none) const {
  if (outputs() != count)
    refuse("a table is of " + std::to_string(outputs()) + " outputs, its tensor of " +
           std::to_string(count));
  for (int32_t index : indices)
    if (index < (allow_none ? -1 : 0) || index >= size)
      refuse("a table reads " + std::to_string(index) + " of " + std::to_string(size));
}

Windows::Windows(std::vector<int32_t> begins_, std::vector<int32_t> ends_)
    : begins(std::move(begins_)), ends(std::move(ends_)) {
  if (begins.size() != ends.size()) refuse("windows need a begin and an end each");
}

void Windows::require_fit(int outputs, int size) const {
  if (begins.size() != size_t(outputs))
    refuse("there are " + std::to_string(begins.size()) + " windows for " +
           std::to_string(outputs) + " outputs");
  for (size_t i = 0; i < begins.size(); ++i)
    if (begins[i] < 0 || ends[i] <= begins[i] || ends[i] > size)
      refuse("a window is not in the " + std::to_string(size) + " that its input has");
}

ColumnTable column_table(const Taps& columns, int row_vectors, const View& out, int lanes) {
  const size_t count = size_t(out.row_vectors) * size_t(lanes), taps = size_t(columns.taps);
  ColumnTable table{std::vector<int32_t>(count * taps, 0), {}, std::vector<float>(count * taps)};
  for (int x = 0; x < out.width; ++x)
    for (size_t t = 0; t < taps; ++t) {
      const size_t place = t * count + size_t(x % out.row_vectors * lanes + x / out.row_vectors);
      const int from = columns.indices[size_t(x) * taps + t];
      table.places[place] = from < 0 ? -1 : from % row_vectors * lanes + from / row_vectors;
      table.weights[place] = columns.weights[size_t(x) * taps + t];
    }
  for (int s = 0; s < out.row_vectors; ++s) {
    const int32_t* first = table.places.data() + int64_t(s) * lanes;
    bool is_vector = *first >= 0 && *first % lanes == 0;
    // Places past the width are zeroed afterwards, whatever is written there.
    for (int l = 1; l < lanes && l * out.row_vectors + s < out.width; ++l)
      is_vector = is_vector && first[l] == *first + l;
    table.vectors.push_back(is_vector ? *first / lanes : -1);
  }
  return table;
}

Footprint footprint_of(const Slice& slice, const Taps& rows, int stride) {
  Footprint footprint = empty_footprint(slice, stride);
  for (size_t i = 0; i < rows.indices.size(); ++i)
    if (rows.indices[i] >= 0)
      widen(&footprint, int64_t(i) / rows.taps, rows.indices[i], rows.indices[i]);
  return footprint;
}

Footprint footprint_of(const Slice& slice, const Windows& rows, int stride) {
  Footprint footprint = empty_footprint(slice, stride);
  for (size_t y = 0; y < rows.begins.size(); ++y)
    widen(&footprint, int64_t(y), rows.begins[y], rows.ends[y] - 1);
  return footprint;
}

// One row more on each side than two samples need: the kernels compute positions in float32.
Footprint resize_footprint(const Slice& input, int64_t from, int64_t to) {
  Footprint footprint{input, int(from), 0, 0, int(to)};
  for (int64_t y = 0; y < to; ++y) {
    const int64_t own = y * from / to;
    const int64_t low = std::max<int64_t>((2 * y + 1) * from - to, 0) / (2 * to);
    footprint.above = std::max(footprint.above, int(own - low + 1));
    footprint.below = std::max(footprint.below, int(low + 2 - own));
  }
  return footprint;
}

}  // namespace thinlens
