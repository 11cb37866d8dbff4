// The weights of a convolution as 16-bit integers, so small that no sum of products overflows.
#pragma once

#include <vector>

#include "sparse_weights.h"

namespace thinlens {

class Int16Weights {
 public:
  // Throws std::invalid_argument where a weight is not finite.
  explicit Int16Weights(const SparseWeights&);

  // The largest magnitude of an input, at most 2^15 - 1.
  int largest() const { return largest_; }
  int16_t word(int channel, float weight) const;
  // What a sum of products is to be multiplied with, by output channel, where inputs were
  // multiplied with `scale`.
  std::vector<float> sum_scales(float scale) const;

 private:
  int largest_;
  std::vector<double> factors_;  // of the weights, by output channel
};

// The rows and vectors of outputs whose converted input stays in the second-level cache, and where
// it is in scratch.
Int16Block int16_block(const ConvJob&, const ConvShape&, const Kernels&);

}  // namespace thinlens
