// What a step reads along one axis, by output row or column.
#pragma once

#include <cstdint>
#include <vector>

#include "program.h"

namespace thinlens {

// `taps` rows or columns of the input for each output, with a weight each. The constructor throws
// std::invalid_argument where the numbers do not fit.
struct Taps {
  Taps(std::vector<int32_t> indices, std::vector<float> weights, int taps);

  const std::vector<int32_t> indices;  // [output][tap]; -1: none
  const std::vector<float> weights;
  const int taps;

  int outputs() const { return int(indices.size()) / taps; }
  bool is_index_map() const;
  // Refuse a table for another number of outputs, or that reads outside `size` inputs.
  void require_fit(int outputs, int size, bool allow_none) const;
};

// Consecutive rows or columns of the input for each output: from `begins` to before `ends`.
struct Windows {
  Windows(std::vector<int32_t> begins, std::vector<int32_t> ends);

  const std::vector<int32_t> begins, ends;

  void require_fit(int outputs, int size) const;
};

// The taps of columns in the order of a row in memory; see ResampleJob.
struct ColumnTable {
  std::vector<int32_t> places, vectors;
  std::vector<float> weights;
};

// Of a row with `row_vectors` vectors of the input, for a row of `out`.
ColumnTable column_table(const Taps& columns, int row_vectors, const View& out, int lanes);

// The rows that a step reads, in terms of `stride` rows of the input per row.
Footprint footprint_of(const Slice&, const Taps& rows, int stride);
Footprint footprint_of(const Slice&, const Windows& rows, int stride);
// The rows that a bilinear resize of a whole image from `from` to `to` rows reads.
Footprint resize_footprint(const Slice&, int64_t from, int64_t to);

}  // namespace thinlens
