// Addition of a convolution to a program.
#pragma once

#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "program.h"
#include "sparse_weights.h"

namespace thinlens {

using Slopes = std::variant<float, std::vector<float>>;  // of all channels, or of each

// See the operation `conv` in ops.cpp.
void add_conv(Program&, std::shared_ptr<const SparseWeights>, Slice input, Slice output,
              std::optional<Slice> residual, const Slopes&, int shuffle, int channel_group,
              float input_range);

}  // namespace thinlens
