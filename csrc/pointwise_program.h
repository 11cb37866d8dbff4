// Instructions of the pointwise kernel: from what a caller writes to what the kernel runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace thinlens {

// As a caller writes it. Operands are numbers: first the inputs, then the results of the
// instructions so far; -1 - k is constant k.
struct PointwiseInstruction {
  PointwiseOperation operation;
  std::vector<int> operands, constants;

  PointwiseInstruction(const std::string& name, std::vector<int> operands,
                       std::vector<int> constants);
};

struct PointwiseProgram {
  std::vector<PointwiseStep> steps;
  std::vector<int> operand_constants;
  int results = 0;  // kept at a time
};

// Validate instructions and assign their results to blocks of the scratch memory.
PointwiseProgram pointwise_program(const std::vector<PointwiseInstruction>&, int inputs,
                                   int constants);

}  // namespace thinlens
