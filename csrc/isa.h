// One instruction set's table of kernels: included once by each isa_*.cpp, which sets the lanes.
#pragma once

namespace {
constexpr int kRows = THINLENS_ROWS;
constexpr int kVectors = THINLENS_VECTORS;
constexpr int kBlock = THINLENS_BLOCK;
constexpr int kLeastVectors = (kVectors + 1) / 2;  // a row of more is cut into tiles of as many
}  // namespace

#include "ceiling.h"
#include "conv.h"

namespace thinlens {
const Kernels THINLENS_KERNELS = {
    THINLENS_NAME, kLanes,      kLeastVectors, kRows, kBlock, kVectors,  run_sparse,
    run_dense,     run_combine, run_pool, run_resize, run_pack, run_unpack,
    kFlopsAStep,   run_multiply_adds,     run_scale};
}
