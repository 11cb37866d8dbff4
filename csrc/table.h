// Which weights of a convolution live?
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"

namespace thinlens {

struct Shape {
  int c_in, c_out, kernel_y, kernel_x, padding, stride, dilation;
};

struct Sparse {  // what ConvJob says of the sparse kernel
  std::vector<Entry> entries;
  std::vector<Pair> pairs;  // in place of entries, where the kernels merge two
  std::vector<int32_t> starts;

  const void* items() const {
    return pairs.empty() ? static_cast<const void*>(entries.data()) : pairs.data();
  }
};

struct Dense {  // what ConvJob says of the dense kernel
  std::vector<int32_t> offsets;
  std::vector<uint32_t> weights;  // bits of a float, or of two bfloat16
};

// The living weights by output channel. A position is an index into [kernel_y, kernel_x, c_in], and
// positions of an output channel rise. The constructor checks all of it and throws
// std::invalid_argument; a table that exists is sound.
class Table {
 public:
  Table(Shape shape, std::vector<int32_t> starts, std::vector<int32_t> positions,
        std::vector<float> values, std::vector<float> bias);

  const Shape shape;
  const std::vector<int32_t> starts;
  const std::vector<int32_t> positions;
  const std::vector<float> values;
  const std::vector<float> bias;

  // Bytes from an output's place in `in` to the input at `position`.
  int64_t offset(const View& in, const Kernels& kernels, int position) const;
  // The living weights in the order of the sparse kernel, input channels cut into groups of `group`.
  Sparse order(const View& in, const Kernels& kernels, int group) const;
  // All taps and weights in the order of the dense kernel, zeros filled in.
  Dense fill(const View& in, const Kernels& kernels) const;
};

}  // namespace thinlens
