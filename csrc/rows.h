// How are rows finished, brought in and out, combined, pooled and resized?
#pragma once

#include <cstring>

#ifdef THINLENS_BF16
#include "bf16.h"
#else
#include "fp32.h"
#endif

namespace {

using thinlens::Along;
using thinlens::CombineJob;
using thinlens::PackJob;
using thinlens::PoolJob;
using thinlens::ResizeJob;
using thinlens::View;

template <class T = Element>
inline T* row_of(const View& view, int y, int c) {
  return reinterpret_cast<T*>(view.data + y * view.row + c * view.channel);
}

// Zero the columns past the width, then write the halo vectors: the neighbours' columns.
inline void finish_row(const View& view, int y, int c) {
  if (sizeof(Element) < sizeof(float) && view.wide) return;  // only unpacking reads it
  Element* row = row_of(view, y, c);
  const int S = view.columns;
  if (view.width < kLanes * S)
    for (int l = view.width / S; l < kLanes; ++l)
      for (int s = l == view.width / S ? view.width % S : 0; s < S; ++s) row[s * kLanes + l] = 0;
  for (int h = 1; h <= view.halo; ++h) {
    store_line(row - h * kLanes, lanes_up(load_line(row + (S - h) * kLanes)));
    store_line(row + (S - 1 + h) * kLanes, lanes_down(load_line(row + (h - 1) * kLanes)));
  }
}

// Zero the rows above the image if `begin` is its first row, those below if `end` is past its last.
inline void finish_edges(const View& view, int begin, int end) {
  const int64_t bytes = int64_t(view.columns + 2 * view.halo) * kLanes * sizeof(Element);
  const auto clear = [&](int y, int c) {
    std::memset(row_of(view, y, c) - view.halo * kLanes, 0, size_t(bytes));
  };
  for (int h = 1; h <= view.halo; ++h)
    for (int c = 0; c < view.channels; ++c) {
      if (begin == 0) clear(-h, c);
      if (end == view.height) clear(view.height - 1 + h, c);
    }
}

// A plain row of `width` values to vectors; the columns past the width are left to finish_row.
inline void row_in(const float* plain, Element* row, int width, int S) {
  const int whole = width / S;  // lanes without a column past the width
  if (whole == kLanes) {
    for (int s = 0; s < S; ++s)
      for (int l = 0; l < kLanes; ++l) row[s * kLanes + l] = to_element(plain[l * S + s]);
    return;
  }
  for (int l = 0; l < kLanes; ++l)
    for (int s = 0; s < S; ++s)
      row[s * kLanes + l] = l * S + s < width ? to_element(plain[l * S + s]) : Element(0);
}

template <class T>
inline void row_out(const T* row, float* plain, int width, int S) {
  for (int l = 0; l * S < width; ++l) {
    const int count = width - l * S < S ? width - l * S : S;
    for (int s = 0; s < count; ++s) plain[l * S + s] = to_float(row[s * kLanes + l]);
  }
}

void run_pack(const PackJob& job, int begin, int end, float* scratch) {
  const View& to = job.view;
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < to.channels; ++c) {
      const int from_y = y < job.height ? y : job.height - 1;
      const float* plain = job.source + (int64_t(c) * job.height + from_y) * job.width;
      if (job.width < to.width) {
        std::memcpy(scratch, plain, job.width * sizeof(float));
        for (int x = job.width; x < to.width; ++x) scratch[x] = plain[job.width - 1];
        plain = scratch;
      }
      row_in(plain, row_of(to, y, c), to.width, to.columns);
      finish_row(to, y, c);
    }
  finish_edges(to, begin, end);
}

void run_unpack(const PackJob& job, int begin, int end, float*) {
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.view.channels; ++c) {
      float* plain = job.target + (int64_t(c) * job.height + y) * job.width;
      if (job.view.wide)
        row_out(row_of<float>(job.view, y, c), plain, job.width, job.view.columns);
      else
        row_out(row_of(job.view, y, c), plain, job.width, job.view.columns);
    }
}

void run_combine(const CombineJob& job, int begin, int end, float*) {
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.out.channels; ++c) {
      const Element* x = row_of(job.x, y, c);
      const Element* second = job.y.data ? row_of(job.y, y, c) : nullptr;
      for (int i = 0; i < job.out.columns * kLanes; i += kLanes) {
        Vec v = load(x + i);
        if (job.gate)
          v *= sigmoid(load(second + i));
        else
          v = v * job.alpha + job.shift[c];
        if (second && !job.gate) v += load(second + i) * job.beta;
        if (job.out.wide)
          store(row_of<float>(job.out, y, c) + i, activate(v, job.slope));
        else
          store(row_of(job.out, y, c) + i, activate(v, job.slope));
      }
      finish_row(job.out, y, c);
    }
  finish_edges(job.out, begin, end);
}

// scratch: one plain row of the input's width, and one of the output's.
void run_pool(const PoolJob& job, int begin, int end, float* scratch) {
  const int width = job.in.width;
  float* line = scratch;  // the maximum down the window
  float* plain = scratch + job.in.columns * kLanes;
  for (int y = begin; y < end; ++y)
    for (int c = 0; c < job.out.channels; ++c) {
      const int S = job.in.columns;
      for (int s = 0; s < S; ++s) {
        Vec best = load(row_of(job.in, y * job.stride, c) + s * kLanes);
        for (int k = 1; k < job.size; ++k)
          best = maximum(best, load(row_of(job.in, y * job.stride + k, c) + s * kLanes));
        alignas(64) Element lanes[kLanes];
        store(lanes, best);
        for (int l = 0; l < kLanes; ++l)
          if (l * S + s < width) line[l * S + s] = to_float(lanes[l]);
      }
      for (int x = 0; x < job.out.width; ++x) {
        float best = line[x * job.stride];
        for (int k = 1; k < job.size; ++k) {
          const float next = line[x * job.stride + k];
          best = best >= next || best != best ? best : next;
        }
        plain[x] = best;
      }
      row_in(plain, row_of(job.out, y, c), job.out.width, job.out.columns);
      finish_row(job.out, y, c);
    }
  finish_edges(job.out, begin, end);
}

struct Between {  // a place between two samples
  int low, high;
  float share;  // of `high`
};

inline int within(int sample, int count) {
  return sample < 0 ? 0 : sample < count ? sample : count - 1;
}

// Of `count` samples that there are; where others are wanted, the nearest stands for them.
inline Between between(int index, const Along& a, int count) {
  float place = (a.start + index + 0.5f) * (float(a.samples) / float(a.whole)) - 0.5f;
  if (place < 0) place = 0;
  const int low = int(place) < a.samples - 1 ? int(place) : a.samples - 1;
  const int high = low + 1 < a.samples ? low + 1 : low;
  return {within(low - a.first, count), within(high - a.first, count), place - float(low)};
}

// scratch: as run_pool.
void run_resize(const ResizeJob& job, int begin, int end, float* scratch) {
  const View &in = job.in, &out = job.out;
  float* line = scratch;
  Element* mixed = reinterpret_cast<Element*>(scratch + in.columns * kLanes);
  for (int y = begin; y < end; ++y) {
    const Between rows = between(y, job.rows, in.height);
    for (int c = 0; c < out.channels; ++c) {
      const Element *low = row_of(in, rows.low, c), *high = row_of(in, rows.high, c);
      for (int i = 0; i < in.columns * kLanes; i += kLanes)
        store(mixed + i, load(low + i) * (1.0f - rows.share) + load(high + i) * rows.share);
      row_out(mixed, line, in.width, in.columns);
      Element* to = row_of(out, y, c);
      for (int l = 0; l < kLanes; ++l)
        for (int s = 0; s < out.columns && l * out.columns + s < out.width; ++s) {
          const Between b = between(l * out.columns + s, job.columns, in.width);
          to[s * kLanes + l] =
              to_element(line[b.low] * (1.0f - b.share) + line[b.high] * b.share);
        }
      finish_row(out, y, c);
    }
  }
  finish_edges(out, begin, end);
}

}  // namespace
