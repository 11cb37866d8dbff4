// Sums, means, extremes and variances: over channels, by pixel, or over rows and columns, by
// channel.
#pragma once

#include "tensor.h"

namespace thinlens {

#define THINLENS_REDUCTIONS(REDUCTION) \
  REDUCTION(sum)                       \
  REDUCTION(mean)                      \
  REDUCTION(mean_square)               \
  REDUCTION(maximum)                   \
  REDUCTION(minimum)                   \
  REDUCTION(variance)

#define THINLENS_REDUCTION(name) name,
enum class Reduction { THINLENS_REDUCTIONS(THINLENS_REDUCTION) };
#undef THINLENS_REDUCTION

// Output channel c is made of the input's channels c * first + j * step, j < count.
struct ReduceChannelsJob {
  View in, out;
  Reduction reduction;
  int count, first, step;
  float divisor;  // of a mean or a variance

  auto views() { return std::array{&in, &out}; }
};

// A "row" is a group of `group` channels; each of its output channels has the group's value.
struct ReduceSpaceJob {
  View in, out;
  Reduction reduction;
  int group;
  double divisor;  // of a mean or a variance

  auto views() { return std::array{&in, &out}; }
};

}  // namespace thinlens

#ifdef THINLENS_FLOATS
#include <limits>

#include "rows.h"

namespace {

using thinlens::ReduceChannelsJob;
using thinlens::ReduceSpaceJob;
using thinlens::Reduction;

constexpr int kReducedVectors = 4;  // vectors of a row whose sums are kept in registers

// Fold N vectors of each channel, from `value` on, by `fold(sum, values, v)`.
template <int N, class Fold>
inline void fold_channels(const ReduceChannelsJob& job, const Element* x, Vector (&sums)[N],
                          Fold fold) {
  for (int j = 0; j < job.count; ++j) {
    const char* values = reinterpret_cast<const char*>(x) + int64_t(j) * job.step * job.in.channel;
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v)
      fold(sums[v], load(reinterpret_cast<const Element*>(values) + v * kLanes), v);
  }
}

// Reduce N vectors from x, of the first of the channels, on.
template <int N>
inline void reduce_vectors(const ReduceChannelsJob& job, const Element* x, Vector (&sums)[N]) {
  const auto begin = [&](float value) {
    for (int v = 0; v < N; ++v) sums[v] = broadcast(value);
  };
  const auto scale = [&](float factor) {
    for (int v = 0; v < N; ++v) sums[v] *= broadcast(factor);
  };
  const auto add = [](Vector& sum, Vector value, int) { sum += value; };
  constexpr float infinity = std::numeric_limits<float>::infinity();
  switch (job.reduction) {
    case Reduction::sum:
      return begin(0.0f), fold_channels(job, x, sums, add);
    case Reduction::mean:
      return begin(0.0f), fold_channels(job, x, sums, add), scale(1.0f / job.divisor);
    case Reduction::mean_square:
      begin(0.0f);
      fold_channels(job, x, sums, [](Vector& sum, Vector value, int) { sum += value * value; });
      return scale(1.0f / job.divisor);
    case Reduction::maximum:
      begin(-infinity);
      return fold_channels(job, x, sums,
                           [](Vector& most, Vector value, int) { most = maximum(most, value); });
    case Reduction::minimum:
      begin(infinity);
      return fold_channels(job, x, sums,
                           [](Vector& least, Vector value, int) { least = minimum(least, value); });
    case Reduction::variance: {
      Vector minus_means[N];
      begin(0.0f), fold_channels(job, x, sums, add), scale(-1.0f / float(job.count));
      for (int v = 0; v < N; ++v) minus_means[v] = sums[v];
      begin(0.0f);
      fold_channels(job, x, sums, [&](Vector& sum, Vector value, int v) {
        const Vector deviation = value + minus_means[v];
        sum += deviation * deviation;
      });
      return scale(1.0f / job.divisor);
    }
  }
}

template <class Out>
void reduce_channels_row(const ReduceChannelsJob& job, Out* out, int y, int c) {
  const Element* x = row_of(job.in, y, c * job.first);
  const auto run = [&](auto& sums, int s, int vectors) {
    reduce_vectors(job, x + s * kLanes, sums);
    for (int v = 0; v < vectors; ++v) store(out + (s + v) * kLanes, sums[v]);
  };
  int s = 0;
  for (; s + kReducedVectors <= job.out.row_vectors; s += kReducedVectors) {
    Vector sums[kReducedVectors] = {};
    run(sums, s, kReducedVectors);
  }
  for (; s < job.out.row_vectors; ++s) {
    Vector sums[1] = {};
    run(sums, s, 1);
  }
}

void run_reduce_channels(const ReduceChannelsJob& job, int begin, int end, float*) {
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.out.channels; ++c) {
      if (!kStoresFloats && job.out.fp32_storage)
        reduce_channels_row(job, row_of<float>(job.out, y, c), y, c);
      else
        reduce_channels_row(job, row_of(job.out, y, c), y, c);
      finish_row(job.out, y, c);
    }
  finish_halo_rows(job.out, begin, end);
}

// Rows whose values are added up in registers before they are added to a sum in double precision.
constexpr int kRowsPerSum = 8;

// Folds the values of a channel, or of several.
class SpaceReducer {
 public:
  // scratch: a row of the input, for which columns are inside the image.
  SpaceReducer(const ReduceSpaceJob& job, float* scratch)
      : job_(job), outside_(reinterpret_cast<Element*>(scratch)) {
    const bool adds = job.reduction == Reduction::variance;
    mark_columns(adds ? 1.0f : 0.0f, adds                                  ? 0.0f
                                     : job.reduction == Reduction::maximum ? -kInfinity
                                                                           : kInfinity);
  }

  double group(int first) const {
    double sum = 0;
    switch (job_.reduction) {
      case Reduction::sum:
      case Reduction::mean:
        sum = total(first, [](Vector& to, Vector value, Vector) { to += value; });
        return job_.reduction == Reduction::sum ? sum : sum / job_.divisor;
      case Reduction::mean_square:
        sum = total(first, [](Vector& to, Vector value, Vector) { to += value * value; });
        return sum / job_.divisor;
      case Reduction::variance: {
        const double values = double(job_.group) * job_.in.height * job_.in.width;
        sum = total(first, [](Vector& to, Vector value, Vector) { to += value; });
        const Vector minus_mean = broadcast(float(-sum / values));
        sum = total(first, [minus_mean](Vector& to, Vector value, Vector inside) {
          const Vector deviation = (value + minus_mean) * inside;
          to += deviation * deviation;
        });
        return sum / job_.divisor;
      }
      case Reduction::maximum:
        return extreme(first, -kInfinity, [](auto a, auto b) { return maximum(a, b); });
      case Reduction::minimum:
        return extreme(first, kInfinity, [](auto a, auto b) { return minimum(a, b); });
    }
    return sum;
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  void mark_columns(float inside, float outside) {
    const int S = job_.in.row_vectors;
    for (int s = 0; s < S; ++s)
      for (int l = 0; l < kLanes; ++l)
        outside_[s * kLanes + l] = to_element(l * S + s < job_.in.width ? inside : outside);
  }

  // Fold rows [y, end) of a channel.
  template <class Fold>
  Vector rows(int c, int y, int end, Vector initial, Fold fold) const {
    Vector even = initial, odd = initial;  // two chains of dependent operations
    for (; y < end; ++y) {
      const Element* row = row_of<const Element>(job_.in, y, c);
      int s = 0;
      for (; s + 2 <= job_.in.row_vectors; s += 2) {
        fold(even, load(row + s * kLanes), load(outside_ + s * kLanes));
        fold(odd, load(row + (s + 1) * kLanes), load(outside_ + (s + 1) * kLanes));
      }
      if (s < job_.in.row_vectors) fold(even, load(row + s * kLanes), load(outside_ + s * kLanes));
    }
    store_partial_sum(lanes_, even);
    store_partial_sum(lanes_ + kLanes, odd);
    return even;
  }

  template <class Fold>
  double total(int first, Fold fold) const {
    double sum = 0;
    for (int c = first; c < first + job_.group; ++c)
      for (int y = 0; y < job_.in.height; y += kRowsPerSum) {
        const int end = y + kRowsPerSum;
        rows(c, y, end < job_.in.height ? end : job_.in.height, broadcast(0.0f), fold);
        for (const float value : lanes_) sum += value;
      }
    return sum;
  }

  template <class Best>
  double extreme(int first, float initial, Best best) const {
    Floats most = broadcast_floats(initial);
    for (int c = first; c < first + job_.group; ++c) {
      rows(c, 0, job_.in.height, broadcast(initial),
           [best](Vector& to, Vector value, Vector outside) { to = best(to, value + outside); });
      for (int i = 0; i < 2 * kLanes; i += kFloats) most = best(most, load_floats(lanes_ + i));
    }
    for (int i = 1; i < kFloats; ++i) {
      const Floats one = broadcast_floats(most[i]);
      most = best(most, one);
    }
    return most[0];
  }

  const ReduceSpaceJob& job_;
  Element* const outside_;  // by column: what is multiplied with, or added to, its value
  alignas(64) mutable float lanes_[2 * kLanes];
};

// The only value of a channel's only row.
inline void store_value(const View& out, int c, float value) {
  if (!kStoresFloats && out.fp32_storage) {
    float* row = row_of<float>(out, 0, c);
    std::memset(row, 0, size_t(out.row_vectors) * kLanes * sizeof(float));
    row[0] = value;
  } else {
    Element* row = row_of(out, 0, c);
    std::memset(row, 0, size_t(out.row_vectors) * kLanes * sizeof(Element));
    row[0] = to_element(value);
  }
  finish_row(out, 0, c);
}

void run_reduce_space(const ReduceSpaceJob& job, int begin, int end, float* scratch) {
  const SpaceReducer reducer(job, scratch);
  for (int group = begin; group < end; ++group) {
    const float value = float(reducer.group(group * job.group));
    for (int c = group * job.group; c < (group + 1) * job.group; ++c)
      store_value(job.out, c, value);
  }
  if (begin == 0) finish_halo_rows(job.out, 0, 1);
}

}  // namespace
#endif
