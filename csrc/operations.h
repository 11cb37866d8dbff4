// The operations of a program, each appended by a function of its own.
//
// They validate their arguments and throw std::invalid_argument. ops.cpp describes them for Python;
// add_conv is in conv_op.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "axis_table.h"
#include "pointwise_program.h"
#include "program.h"

namespace thinlens {

void add_pack(Program& program, Slice output, int first_channel, int image);
void add_unpack(Program& program, Slice input, int image);
void add_pointwise(Program& program, const std::vector<Slice>& inputs, Slice output,
                   const std::vector<PointwiseInstruction>& instructions,
                   std::vector<float> constants);
void add_reduce_channels(Program& program, Slice input, Slice output, const std::string& reduction,
                         int count, int first, int step, int correction);
void add_reduce_space(Program& program, Slice input, Slice output, const std::string& reduction,
                      int group, int correction);
void add_channel_norm(Program& program, Slice input, Slice output, std::vector<float> weight,
                      std::vector<float> bias, float epsilon);
void add_range(Program& program, Slice input);
void add_max_pool(Program& program, Slice input, Slice output, std::shared_ptr<const Windows> rows,
                  std::shared_ptr<const Windows> columns, int stride);
void add_resample(Program& program, Slice input, Slice output, std::shared_ptr<const Taps> rows,
                  std::shared_ptr<const Taps> columns, float fill, int stride);
void add_resize(Program& program, Slice input, Slice output);

}  // namespace thinlens
