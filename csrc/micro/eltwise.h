// Element-wise operations of one or two tensors, with an activation.
#pragma once

#include "tensor.h"

namespace thinlens {

struct EltwiseJob {    // act(alpha x + beta y + shift) or, as a gate, x sigmoid(y)
  View x, y, out;      // y.data is null where there is no second tensor
  const float* shift;  // by channel
  float alpha, beta;
  float slope;  // of the activation's negative side: 1 none, 0 ReLU
  bool gate;

  auto views() { return std::array{&x, &y, &out}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include "rows.h"

namespace {

using thinlens::EltwiseJob;

void run_eltwise(const EltwiseJob& job, int begin, int end, float*) {
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.out.channels; ++c) {
      const Element* x = row_of(job.x, y, c);
      const Element* second = job.y.data ? row_of(job.y, y, c) : nullptr;
      for (int i = 0; i < job.out.row_vectors * kLanes; i += kLanes) {
        Vector v = load(x + i);
        if (job.gate)
          v *= sigmoid(load(second + i));
        else
          v = v * job.alpha + job.shift[c];
        if (second && !job.gate) v += load(second + i) * job.beta;
        if (job.out.fp32_storage)
          store(row_of<float>(job.out, y, c) + i, activate(v, job.slope));
        else
          store(row_of(job.out, y, c) + i, activate(v, job.slope));
      }
      finish_row(job.out, y, c);
    }
  finish_halo_rows(job.out, begin, end);
}

}  // namespace
#endif
