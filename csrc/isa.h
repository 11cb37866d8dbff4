// One instruction set's table of kernels: included once by each isa_*.cpp, which sets the lanes.
#pragma once

namespace {
constexpr int kRows = THINLENS_ROWS;
constexpr int kVectors = THINLENS_VECTORS;
constexpr int kBlock = THINLENS_BLOCK;
#ifdef THINLENS_DENSE_VECTORS
constexpr int kDenseVectors = THINLENS_DENSE_VECTORS;
#else
constexpr int kDenseVectors = kVectors;
#endif
}  // namespace

#include "ceiling.h"
#include "conv.h"

namespace thinlens {
const Kernels THINLENS_KERNELS = {
    THINLENS_NAME,
    kLanes,
    sizeof(Element),
    kRows,
    kBlock,
    kVectors,
    kMerged,
    run_sparse,
    run_dense,
    run_combine,
    run_pool,
    run_resize,
    run_pack,
    run_unpack,
    kFlopsAStep,
    run_multiply_adds,
    run_scale,
};
}
