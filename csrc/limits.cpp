// What can this machine do at best, with some threads, at this moment?
#include "limits.h"

#include <algorithm>
#include <memory>
#include <new>

#include "clock.h"

namespace thinlens {
namespace {

constexpr int kTrials = 5;               // the best counts: a ceiling is never too high
constexpr int kBlocksAThread = 8;        // so that a thread that starts late does less
constexpr int64_t kSteps = 400 * 1000;   // a block's: under 3 ms
constexpr int64_t kFloats = 24 << 20;    // 96 MiB each way, larger than a cache
constexpr int64_t kFloatsABlock = 1 << 18;

template <class Work>
double best_seconds(Pool& pool, int blocks, const Work& work) {
  double best = 1e9;
  for (int trial = 0; trial < kTrials; ++trial) {
    const double begin = now(pool.size() == 1);
    pool.run(blocks, work);
    best = std::min(best, now(pool.size() == 1) - begin);
  }
  return best;
}

struct Free {
  void operator()(float* p) const { ::operator delete(p, std::align_val_t(64)); }
};

std::unique_ptr<float, Free> ones(int64_t floats) {
  void* memory = ::operator new(size_t(floats) * sizeof(float), std::align_val_t(64));
  std::fill_n(static_cast<float*>(memory), floats, 1.0f);
  return std::unique_ptr<float, Free>(static_cast<float*>(memory));
}

}  // namespace

Limits measure(const Kernels& kernels, Pool& pool) {
  volatile float value = 0.999f, sink = 0;
  const float factor = value;
  const int blocks = kBlocksAThread * pool.size();
  const double computing = best_seconds(pool, blocks, [&](int block, int) {
    const float sum = kernels.multiply_adds(kSteps, factor);
    if (block < 0) sink = sum;
  });
  const auto from = ones(kFloats), to = ones(kFloats);
  const double copying =
      best_seconds(pool, int(kFloats / kFloatsABlock), [&](int block, int) {
        const int64_t first = block * kFloatsABlock;
        kernels.scale(from.get() + first, to.get() + first, kFloatsABlock, factor);
      });
  return {double(kernels.flops_a_step) * kSteps * blocks / computing,
          2.0 * sizeof(float) * double(kFloats) / copying};
}

}  // namespace thinlens
