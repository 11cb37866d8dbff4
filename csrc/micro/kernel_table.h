// The kernels of one set of instructions, as a table. Each csrc/isa/*.cpp includes this once.
//
// It sets THINLENS_FLOATS, the floats of a vector, and THINLENS_TILE, the tile of the convolutions;
// CMake sets, from isa_list.inc, THINLENS_NAME and THINLENS_STORAGE, the header of its storage.
#pragma once

#include "kernels.h"
#include "peak.h"

#define THINLENS_JOIN(a, b) THINLENS_JOIN_EXPANDED(a, b)
#define THINLENS_JOIN_EXPANDED(a, b) a##b
#define THINLENS_STRING(a) THINLENS_STRING_EXPANDED(a)
#define THINLENS_STRING_EXPANDED(a) #a

namespace thinlens {

extern const Kernels THINLENS_JOIN(kernels_, THINLENS_NAME);
// clang-format off
const Kernels THINLENS_JOIN(kernels_, THINLENS_NAME) = {
    .name = THINLENS_STRING(THINLENS_NAME),
    .lanes = kLanes,
    .value_bytes = sizeof(Element),
    .fused_weights = kFusedWeights,
    .tile = kTile,
    .peak_flops_per_step = kFlopsPerStep,
    .peak_flops = run_peak_flops,
    .peak_bandwidth = run_peak_bandwidth,
#define THINLENS_OP(name, Job) .name = run_##name,
    THINLENS_OPS(THINLENS_OP)
#undef THINLENS_OP
};
// clang-format on

}  // namespace thinlens
