// The operations that every set of instructions has a kernel for.
//
// To add one: write csrc/micro/<op>.h with its job (a struct of views and numbers that it runs on)
// and its kernel `run_<op>`, include that file here, add a line OP(<op>, <its job>), add it to
// programs in csrc/operations.cpp, where its arguments are validated, and bind it in csrc/ops.cpp.
#pragma once

#include "micro/channel_norm.h"
#include "micro/conv.h"
#include "micro/int16_conv.h"
#include "micro/pack.h"
#include "micro/pointwise.h"
#include "micro/pool.h"
#include "micro/range.h"
#include "micro/reduce.h"
#include "micro/resample.h"
#include "micro/resize.h"
#include "micro/winograd.h"

#define THINLENS_OPS(OP)                 \
  OP(sparse_conv, ConvJob)               \
  OP(dense_conv, ConvJob)                \
  OP(winograd_conv, ConvJob)             \
  OP(int16_sparse_conv, ConvJob)         \
  OP(int16_dense_conv, ConvJob)          \
  OP(pointwise, PointwiseJob)            \
  OP(reduce_channels, ReduceChannelsJob) \
  OP(reduce_space, ReduceSpaceJob)       \
  OP(channel_norm, ChannelNormJob)       \
  OP(range, RangeJob)                    \
  OP(max_pool, PoolJob)                  \
  OP(resample, ResampleJob)              \
  OP(resize, ResizeJob)                  \
  OP(pack, PackJob)                      \
  OP(unpack, UnpackJob)
