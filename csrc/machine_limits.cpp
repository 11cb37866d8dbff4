// Measurement of the machine's peak arithmetic throughput and memory bandwidth.
#include "machine_limits.h"

#include <algorithm>
#include <memory>
#include <new>

#include "system.h"

namespace thinlens {
namespace {

constexpr int kTrials = 5;              // the best counts: no trial exceeds the limit
constexpr int kBlocksPerThread = 8;     // so that a thread that starts late does less
constexpr int64_t kSteps = 400 * 1000;  // per block: under 3 ms
constexpr int64_t kFloats = 24 << 20;   // 96 MiB each way, larger than a cache
constexpr int64_t kFloatsPerBlock = 1 << 18;

template <class Work>
double best_seconds(ThreadPool& pool, int blocks, const Work& work) {
  double best = 1e9;
  for (int trial = 0; trial < kTrials; ++trial) {
    const double begin = clock_seconds(pool.size() == 1);
    pool.run(blocks, work);
    best = std::min(best, clock_seconds(pool.size() == 1) - begin);
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

MachineLimits measure_limits(const Kernels& kernels, ThreadPool& pool) {
  volatile float value = 0.999f, sink = 0;
  const float factor = value;
  const int blocks = kBlocksPerThread * pool.size();
  const double compute_seconds = best_seconds(pool, blocks, [&](int block, int) {
    const float sum = kernels.peak_flops(kSteps, factor);
    if (block < 0) sink = sum;
  });
  const auto from = ones(kFloats), to = ones(kFloats);
  const double copy_seconds =
      best_seconds(pool, int(kFloats / kFloatsPerBlock), [&](int block, int) {
        const int64_t first = block * kFloatsPerBlock;
        kernels.peak_bandwidth(from.get() + first, to.get() + first, kFloatsPerBlock, factor);
      });
  return {double(kernels.peak_flops_per_step) * kSteps * blocks / compute_seconds,
          2.0 * sizeof(float) * double(kFloats) / copy_seconds};
}

}  // namespace thinlens
