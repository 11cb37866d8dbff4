// The weights of a dense 3x3 convolution, transformed for Winograd's minimal filtering.
#pragma once

#include <vector>

#include "sparse_weights.h"

namespace thinlens {

// Whether the kernel convolves with weights of that shape: 3x3 in one group, no stride or dilation.
bool fits_winograd(const ConvShape&);

// G g G' of every pair of channels, for every `channels` outputs: [position][block of `block`
// outputs][input][output in the block]. The last block is filled with zeros; `block` divides
// `channels`.
std::vector<float> winograd_weights(const SparseWeights&, int block, int channels);

// Blocks whose transformed inputs stay in the second-level cache while the weights stream through.
WinogradScratch winograd_scratch(const ConvShape&, const Kernels&);

}  // namespace thinlens
