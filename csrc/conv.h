// How is a convolution computed, when most of its weights are zero and when few are?
//
// Both kernels hold a tile of outputs in registers and walk the weights once for it. The sparse one
// keeps kRows x kVectors outputs of one channel and spends one load a multiply-add; the dense one
// keeps kVectors outputs of kBlock channels and shares every load among them.
#pragma once

#include <type_traits>

#include "rows.h"

namespace {

using thinlens::ConvJob;

constexpr int64_t kBytes = kLanes * sizeof(Element);  // of a vector in memory

// Where one output channel of a tile goes, after the pixel shuffle.
struct Target {
  char* out;
  const char* residual;
  int64_t row, vector, residual_row;
  float slope;
  bool wide;

  Target(const ConvJob& job, int channel, int y, int s) {
    const int r = job.shuffle;
    int c = channel, dy = 0, dx = 0;
    if (r > 1) c = channel / (r * r), dy = channel / r % r, dx = channel % r;
    wide = job.out.wide;
    const int64_t bytes = kLanes * int64_t(wide ? sizeof(float) : sizeof(Element));
    out = job.out.data + (int64_t(y) * r + dy) * job.out.row + c * job.out.channel +
          (int64_t(s) * r + dx) * bytes;
    row = job.out.row * r;
    vector = r * bytes;
    residual = job.residual.data ? job.residual.data + y * job.residual.row +
                                       channel * job.residual.channel + s * kBytes
                                 : nullptr;
    residual_row = job.residual.row;
    slope = job.slope;
  }

  void put(Vec value, int r, int v) const {
    if (residual)
      value += load(reinterpret_cast<const Element*>(residual + r * residual_row + v * kBytes));
    char* place = out + r * row + v * vector;
    if (wide)
      store(reinterpret_cast<float*>(place), activate(value, slope));
    else
      store(reinterpret_cast<Element*>(place), activate(value, slope));
  }
};

// Fetches the input of the next tile, a channel at a time, while this one is computed: the rows of
// many channels are too many streams for the hardware to foresee.
class Ahead {
 public:
  Ahead(const ConvJob& job, const char* next, int rows, int vectors)
      : job_(job), next_(next), rows_(rows), vectors_(vectors) {}

  void up_to(int64_t step, int64_t steps) {
    for (; channel_ * steps < step * job_.in.channels; ++channel_, next_ += job_.in.channel)
      for (int r = -job_.above; r < rows_; ++r)
        for (int v = 0; v < vectors_; ++v)
          __builtin_prefetch(next_ + r * job_.in.row + v * kBytes, 0, 2);
  }

 private:
  const ConvJob& job_;
  const char* next_;
  const int rows_, vectors_;
  int64_t channel_ = 0;
};

// What one group of input channels adds to output channels [first, last) of a tile.
template <int R, int V, int Stride>
void sparse_group(const ConvJob& job, const char* x, int y, int s, int first, int last, int group,
                  float* sums, Ahead& ahead) {
  const int64_t row = job.in.row * Stride;
  const int64_t steps = int64_t(job.groups) * job.c_out;
  const int32_t* start = job.starts + int64_t(group) * job.c_out + first;
  for (int o = first; o < last; ++o, ++start, sums += R * V * kLanes) {
    ahead.up_to(int64_t(first) * job.groups + int64_t(group) * (last - first) + o - first, steps);
    Vec acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        acc[r][v] = group ? load_sum(sums + (r * V + v) * kLanes) : splat(job.bias[o]);
    const Item* const items = static_cast<const Item*>(job.entries);
    const Item* const end = items + start[1];
    for (const Item* item = items + start[0]; item != end; ++item) {
      Walk walk(x, *item);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r, walk.down(row))
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) walk.add(acc[r][v], v * Stride * kBytes);
    }
    if (group + 1 < job.groups) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store_sum(sums + (r * V + v) * kLanes, acc[r][v]);
      continue;
    }
    const Target target(job, o, y, s);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) target.put(acc[r][v], r, v);
  }
}

// Where in the input the tile of row y and vector s begins.
inline const char* place(const ConvJob& job, int y, int s) {
  return job.in.data + int64_t(y) * job.stride * job.in.row + s * job.stride * kBytes;
}

template <int R, int V, int Stride>
void sparse_tile(const ConvJob& job, int y, int s, const char* next, float* partial) {
  const char* x = place(job, y, s);
  Ahead ahead(job, next, (R - 1) * Stride + 1 + job.below, V * Stride);
  for (int first = 0; first < job.c_out; first += job.together) {
    const int last = first + job.together < job.c_out ? first + job.together : job.c_out;
    for (int group = 0; group < job.groups; ++group)
      sparse_group<R, V, Stride>(job, x, y, s, first, last, group, partial, ahead);
  }
}

template <int V, int Stride>
void dense_tile(const ConvJob& job, int y, int s) {
  const char* x = place(job, y, s);
  int64_t w = 0;
  for (int o = 0; o < job.c_out; o += kBlock) {
    Vec acc[kBlock][V];
#pragma GCC unroll 8
    for (int b = 0; b < kBlock; ++b)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[b][v] = splat(job.bias[o + b]);
    for (int t = 0; t < job.taps; ++t, w += kBlock) {
      Weight weight[kBlock];
#pragma GCC unroll 8
      for (int b = 0; b < kBlock; ++b) weight[b] = weight_of(job.weights, w + b);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Input in = read(x, job.offsets + t * kMerged, v * Stride * kBytes);
#pragma GCC unroll 8
        for (int b = 0; b < kBlock; ++b) multiply_add(acc[b][v], weight[b], in);
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < kBlock; ++b) {
      if (o + b >= job.c_out) break;
      const Target target(job, o + b, y, s);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) target.put(acc[b][v], 0, v);
    }
  }
}

// Call `visit` with the one of Least..Most, a constant, that `size` is.
template <int Least, int Most, class Visit>
void constant(int size, Visit visit) {
  if constexpr (Least < Most) {
    if (size < Most) return constant<Least, Most - 1>(size, visit);
  }
  visit(std::integral_constant<int, Most>{});
}

// Visit the first vector of each tile of a row, its number of vectors, and where the next begins (0
// after the last). Tiles differ by one vector at most, so that no vector is computed twice.
template <int Most, class Visit>
void each_tile(int columns, Visit visit) {
  const int tiles = (columns + Most - 1) / Most;
  for (int i = 0, s = 0; i < tiles; ++i) {
    const int next = columns * (i + 1) / tiles;
    constant<1, Most>(next - s, [&](auto vectors) {
      visit(s, vectors, i + 1 < tiles ? next : 0);
    });
    s = next;
  }
}

template <int Stride>
void sparse_rows(const ConvJob& job, int begin, int end, float* scratch) {
  for (int y = begin; y < end; y += kRows)
    constant<1, kRows>(end - y < kRows ? end - y : kRows, [&](auto rows) {
      each_tile<kVectors>(job.out.columns / job.shuffle, [&](int s, auto vectors, int next) {
        const char* after = place(job, next ? y : y + rows < job.last ? y + rows : y, next);
        sparse_tile<rows.value, vectors.value, Stride>(job, y, s, after, scratch);
      });
    });
}

void finish_rows(const ConvJob& job, int begin, int end) {
  const int r = job.shuffle;
  for (int y = begin * r; y < end * r; ++y)
    for (int c = 0; c < job.c_out / (r * r); ++c) finish_row(job.out, y, c);
  finish_edges(job.out, begin * r, end * r);
}

void run_sparse(const ConvJob& job, int begin, int end, float* scratch) {
  if (job.stride == 2)
    sparse_rows<2>(job, begin, end, scratch);
  else
    sparse_rows<1>(job, begin, end, scratch);
  finish_rows(job, begin, end);
}

void run_dense(const ConvJob& job, int begin, int end, float*) {
  for (int y = begin; y < end; ++y)
    each_tile<kDenseVectors>(job.out.columns / job.shuffle, [&](int s, auto vectors, int) {
      if (job.stride == 2)
        dense_tile<vectors.value, 2>(job, y, s);
      else
        dense_tile<vectors.value, 1>(job, y, s);
    });
  finish_rows(job, begin, end);
}

}  // namespace
