// Arithmetic on single values of several tensors: a list of instructions, run on blocks of a row.
//
// An input is as large as the output or has size 1 along some axes, where its values are broadcast.
// Interpretation costs little: every instruction runs on a block of vectors. The results of
// instructions are kept in the scratch memory, those of the last one are written to the output.
#pragma once

#include "tensor.h"

namespace thinlens {

// The operations of instructions: name, how many operands they have at most, how many constants.
#define THINLENS_POINTWISE(OPERATION)                          \
  OPERATION(combine, 2, 4) /* act(k0 a + k1 b + k2), slope k3; \
                              without b: act(k0 a + k2) */     \
  OPERATION(multiply, 2, 0)                                    \
  OPERATION(divide, 2, 0)                                      \
  OPERATION(maximum, 2, 0)                                     \
  OPERATION(minimum, 2, 0)                                     \
  OPERATION(clamp, 1, 2)                                       \
  OPERATION(absolute, 1, 0)                                    \
  OPERATION(floor, 1, 0)                                       \
  OPERATION(sqrt, 1, 0)                                        \
  OPERATION(exp, 1, 0)                                         \
  OPERATION(expm1, 1, 0)                                       \
  OPERATION(log, 1, 0)                                         \
  OPERATION(log1p, 1, 0)                                       \
  OPERATION(sigmoid, 1, 0)                                     \
  OPERATION(gate, 2, 0) /* a sigmoid(b) */                     \
  OPERATION(tanh, 1, 0)                                        \
  OPERATION(erf, 1, 0)

#define THINLENS_OPERATION(name, operands, constants) name,
enum class PointwiseOperation { THINLENS_POINTWISE(THINLENS_OPERATION) };
#undef THINLENS_OPERATION

constexpr int kPointwiseInputs = 4, kPointwiseSteps = 32, kPointwiseConstants = 4;
constexpr int kPointwiseBlock = 8;  // vectors

// Where operands come from, by number: the inputs, the results that are kept, then the constants
// that are operands themselves.
struct PointwiseStep {  // an instruction
  PointwiseOperation operation;
  int operands[2];  // sources; -1: none
  int constants[kPointwiseConstants];
  int result;  // source
};

struct PointwiseJob {
  View out;
  std::array<View, kPointwiseInputs> in;
  int inputs, results;
  const PointwiseStep* steps;
  int count;
  const float* constants;  // [channel][constant]
  int channel_constants;
  const int* operand_constants;  // those that are sources
  int operand_constant_count;

  auto views() { return std::array{&out, &in[0], &in[1], &in[2], &in[3]}; }
  int sources() const { return inputs + results + operand_constant_count; }
};

constexpr int kPointwiseSources = kPointwiseInputs + 3 * kPointwiseSteps;

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::PointwiseJob;
using thinlens::PointwiseOperation;
using thinlens::PointwiseStep;

constexpr int kBlockFloats = thinlens::kPointwiseBlock * kLanes;

struct Source {  // of values in registers' order
  const float* p;
  int step;     // floats from a vector of floats to the next: 0 for one value
  bool moving;  // with the blocks of a row
};

template <class Operation>
inline void apply(const Source& a, float* to, int count, Operation operation) {
  for (int i = 0; i < count; ++i)
    store_floats(to + i * kFloats, operation(load_floats(a.p + i * a.step)));
}

template <class Operation>
inline void apply(const Source& a, const Source& b, float* to, int count, Operation operation) {
  for (int i = 0; i < count; ++i)
    store_floats(to + i * kFloats,
                 operation(load_floats(a.p + i * a.step), load_floats(b.p + i * b.step)));
}

// Run an instruction on `count` vectors of floats; `constants` are those of the channel.
inline void run_instruction(const PointwiseStep& step, const Source& a, const Source& b, float* to,
                            int count, const float* constants) {
  const auto k = [&](int i) { return constants[step.constants[i]]; };
  const float k0 = k(0), k1 = k(1), k2 = k(2), k3 = k(3);
  switch (step.operation) {
    case PointwiseOperation::combine:
      if (step.operands[1] >= 0)
        return apply(a, b, to, count,
                     [=](Floats x, Floats y) { return activate(x * k0 + k2 + y * k1, k3); });
      return apply(a, to, count, [=](Floats x) { return activate(x * k0 + k2, k3); });
    case PointwiseOperation::multiply:
      return apply(a, b, to, count, [](Floats x, Floats y) { return x * y; });
    case PointwiseOperation::divide:
      return apply(a, b, to, count, [](Floats x, Floats y) { return x / y; });
    case PointwiseOperation::maximum:
      return apply(a, b, to, count, [](Floats x, Floats y) { return maximum(x, y); });
    case PointwiseOperation::minimum:
      return apply(a, b, to, count, [](Floats x, Floats y) { return minimum(x, y); });
    case PointwiseOperation::clamp:
      return apply(a, to, count, [=](Floats x) { return clamp(x, k0, k1); });
    case PointwiseOperation::absolute:
      return apply(a, to, count, [](Floats x) { return floats_of(bits_of(x) & 0x7fffffff); });
    case PointwiseOperation::floor:
      return apply(a, to, count, [](Floats x) { return round_down(x); });
    case PointwiseOperation::sqrt:
      return apply(a, to, count, [](Floats x) { return square_root(x); });
    case PointwiseOperation::exp:
      return apply(a, to, count, [](Floats x) { return exponential(x); });
    case PointwiseOperation::expm1:
      return apply(a, to, count, [](Floats x) { return exponential_minus_one(x); });
    case PointwiseOperation::log:
      return apply(a, to, count, [](Floats x) { return logarithm(x); });
    case PointwiseOperation::log1p:
      return apply(a, to, count, [](Floats x) { return logarithm_plus_one(x); });
    case PointwiseOperation::sigmoid:
      return apply(a, to, count, [](Floats x) { return sigmoid(x); });
    case PointwiseOperation::gate:
      return apply(a, b, to, count, [](Floats x, Floats y) { return x * sigmoid(y); });
    case PointwiseOperation::tanh:
      return apply(a, to, count, [](Floats x) { return hyperbolic_tangent(x); });
    case PointwiseOperation::erf:
      return apply(a, to, count, [](Floats x) { return error_function(x); });
  }
}

// The row of an input that the output's row y of channel c is computed from.
inline const Element* input_row(const View& in, int y, int c) {
  return row_of<const Element>(in, in.height == 1 ? 0 : y, in.channels == 1 ? 0 : c);
}

inline bool is_one_value(const View& in, const View& out) { return in.width == 1 && out.width > 1; }

// Runs the instructions of a job on one row of one channel at a time.
class PointwiseRunner {
 public:
  PointwiseRunner(const PointwiseJob& job, float* scratch) : job_(job), scratch_(scratch) {
    for (int i = 0; i < job.sources(); ++i) {
      const bool is_operand_constant = i >= job.inputs + job.results;
      sources_[i] = {scratch + i * kBlockFloats, is_operand_constant ? 0 : kFloats, false};
    }
  }

  template <class Out>
  void run(Out* out, int y, int c) {
    begin_row(y, c);
    const int S = job_.out.row_vectors;
    const int block = kStoresFloats && job_.count == 1 ? S : thinlens::kPointwiseBlock;
    for (int s = 0; s < S; s += block)
      run_block(out + s * kLanes, s, S - s < block ? S - s : block);
  }

 private:
  float* block_of(int source) const { return scratch_ + source * kBlockFloats; }

  void begin_row(int y, int c) {
    constants_ = job_.constants + int64_t(c) * job_.channel_constants;
    for (int i = 0; i < job_.inputs; ++i) {
      rows_[i] = input_row(job_.in[i], y, c);
      if (is_one_value(job_.in[i], job_.out)) {
        sources_[i].step = 0;
        store_floats(block_of(i), broadcast_floats(to_float(rows_[i][0])));
      } else if constexpr (kStoresFloats) {
        sources_[i] = {reinterpret_cast<const float*>(rows_[i]), kFloats, true};
      }
    }
    for (int i = 0; i < job_.operand_constant_count; ++i)
      store_floats(block_of(job_.inputs + job_.results + i),
                   broadcast_floats(constants_[job_.operand_constants[i]]));
  }

  Source source(int index, int s) const {
    Source at = sources_[index < 0 ? 0 : index];
    if (at.moving) at.p += s * kLanes;
    return at;
  }

  template <class Out>
  void run_block(Out* out, int s, int vectors) {
    if constexpr (!kStoresFloats)
      for (int i = 0; i < job_.inputs; ++i)
        if (sources_[i].step)
          for (int v = 0; v < vectors; ++v)
            store_partial_sum(block_of(i) + v * kLanes, load(rows_[i] + (s + v) * kLanes));
    for (int n = 0; n < job_.count; ++n) {
      const PointwiseStep& step = job_.steps[n];
      float* to = block_of(step.result);
      if constexpr (kStoresFloats)
        if (n == job_.count - 1) to = out;
      run_instruction(step, source(step.operands[0], s), source(step.operands[1], s), to,
                      vectors * (kLanes / kFloats), constants_);
    }
    if constexpr (!kStoresFloats) {
      const float* last = block_of(job_.steps[job_.count - 1].result);
      for (int v = 0; v < vectors; ++v)
        store(out + v * kLanes, load_partial_sum(last + v * kLanes));
    }
  }

  const PointwiseJob& job_;
  float* const scratch_;
  const float* constants_ = nullptr;  // of the channel
  const Element* rows_[thinlens::kPointwiseInputs];
  Source sources_[thinlens::kPointwiseSources];
};

// The plain case without interpretation.
template <class Out>
void combine_row(const PointwiseJob& job, Out* out, int y, int c) {
  const PointwiseStep& step = job.steps[0];
  const float* constants = job.constants + int64_t(c) * job.channel_constants;
  const float scale = constants[step.constants[0]], factor = constants[step.constants[1]];
  const float shift = constants[step.constants[2]], slope = constants[step.constants[3]];
  const Element* a = input_row(job.in[step.operands[0]], y, c);
  const Element* b = step.operands[1] < 0 ? nullptr : input_row(job.in[step.operands[1]], y, c);
  for (int i = 0; i < job.out.row_vectors * kLanes; i += kLanes) {
    Vector v = load(a + i) * scale + shift;
    if (b) v += load(b + i) * factor;
    store(out + i, activate(v, slope));
  }
}

inline bool is_plain(const PointwiseJob& job) {
  if (job.count != 1 || job.steps[0].operation != PointwiseOperation::combine) return false;
  for (int i = 0; i < job.inputs; ++i)
    if (is_one_value(job.in[i], job.out)) return false;
  for (const int operand : job.steps[0].operands)
    if (operand >= job.inputs) return false;
  return true;
}

// scratch: a block of vectors for each source.
void run_pointwise(const PointwiseJob& job, int begin, int end, float* scratch) {
  PointwiseRunner runner(job, scratch);
  const bool plain = is_plain(job);
  const auto run = [&](auto* out, int y, int c) {
    plain ? combine_row(job, out, y, c) : runner.run(out, y, c);
  };
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.out.channels; ++c) {
      if (!kStoresFloats && job.out.fp32_storage)
        run(row_of<float>(job.out, y, c), y, c);
      else
        run(row_of(job.out, y, c), y, c);
      finish_row(job.out, y, c);
    }
  finish_halo_rows(job.out, begin, end);
}

}  // namespace
#endif
