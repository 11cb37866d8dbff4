// Validation of pointwise instructions, and where their results are kept.
#include "pointwise_program.h"

#include <algorithm>
#include <iterator>

#include "errors.h"

namespace thinlens {
namespace {

struct Signature {
  const char* name;
  int operands, constants;
};

#define THINLENS_OPERATION(name, operands, constants) {#name, operands, constants},
constexpr Signature kSignatures[] = {THINLENS_POINTWISE(THINLENS_OPERATION)};
#undef THINLENS_OPERATION

PointwiseOperation operation_of(const std::string& name) {
  for (size_t i = 0; i < std::size(kSignatures); ++i)
    if (name == kSignatures[i].name) return PointwiseOperation(i);
  refuse("there is no pointwise operation " + name);
}

// Whether a value (an input or a result, by number) is read after instruction `n`.
bool is_read_after(const std::vector<PointwiseInstruction>& instructions, size_t n, int value) {
  return std::any_of(instructions.begin() + std::ptrdiff_t(n) + 1, instructions.end(),
                     [value](const PointwiseInstruction& later) {
                       return std::count(later.operands.begin(), later.operands.end(), value) > 0;
                     });
}

void check(const PointwiseInstruction& instruction, int values, int constants) {
  for (const int operand : instruction.operands)
    if (operand >= values || operand < -constants)
      refuse("a pointwise instruction has no operand " + std::to_string(operand));
  for (const int constant : instruction.constants)
    if (constant < 0 || constant >= constants)
      refuse("a pointwise instruction has no constant " + std::to_string(constant));
}

// Return the block of each instruction's result. It may be that of an operand which nothing else
// reads.
std::vector<int> assign_blocks(const std::vector<PointwiseInstruction>& instructions, int inputs) {
  std::vector<int> blocks;
  for (size_t n = 0; n < instructions.size(); ++n) {
    std::vector<bool> taken(instructions.size(), false);
    for (size_t m = 0; m < n; ++m)
      if (is_read_after(instructions, n, inputs + int(m))) taken[size_t(blocks[m])] = true;
    blocks.push_back(int(std::find(taken.begin(), taken.end(), false) - taken.begin()));
  }
  return blocks;
}

}  // namespace

PointwiseInstruction::PointwiseInstruction(const std::string& name, std::vector<int> operands_,
                                           std::vector<int> constants_)
    : operation(operation_of(name)),
      operands(std::move(operands_)),
      constants(std::move(constants_)) {
  const Signature& signature = kSignatures[size_t(operation)];
  const bool one_less = operation == PointwiseOperation::combine && operands.size() == 1;
  if ((operands.size() != size_t(signature.operands) && !one_less) ||
      constants.size() != size_t(signature.constants))
    refuse("the operation " + name + " has " + std::to_string(signature.operands) +
           " operands and " + std::to_string(signature.constants) + " constants, not " +
           std::to_string(operands.size()) + " and " + std::to_string(constants.size()));
}

PointwiseProgram pointwise_program(const std::vector<PointwiseInstruction>& instructions,
                                   int inputs, int constants) {
  if (instructions.empty() || instructions.size() > size_t(kPointwiseSteps))
    refuse("a pointwise step has 1 to " + std::to_string(kPointwiseSteps) + " instructions, not " +
           std::to_string(instructions.size()));
  for (size_t n = 0; n < instructions.size(); ++n)
    check(instructions[n], inputs + int(n), constants);
  PointwiseProgram program;
  const std::vector<int> blocks = assign_blocks(instructions, inputs);
  program.results = *std::max_element(blocks.begin(), blocks.end()) + 1;
  for (size_t n = 0; n < instructions.size(); ++n) {
    const PointwiseInstruction& from = instructions[n];
    PointwiseStep step{from.operation, {-1, -1}, {}, inputs + blocks[n]};
    for (size_t i = 0; i < from.operands.size(); ++i) {
      const int operand = from.operands[i];
      step.operands[i] = operand < inputs ? operand : inputs + blocks[size_t(operand - inputs)];
      if (operand < 0) {
        step.operands[i] = inputs + program.results + int(program.operand_constants.size());
        program.operand_constants.push_back(-1 - operand);
      }
    }
    std::copy(from.constants.begin(), from.constants.end(), step.constants);
    program.steps.push_back(step);
  }
  return program;
}

}  // namespace thinlens
