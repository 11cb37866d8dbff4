// Rows in the strided layout: addresses, zero padding, halos, conversion from and to plain rows.
#pragma once

#include <cstring>

#include "tensor.h"
#include THINLENS_STORAGE

namespace {

using thinlens::View;

constexpr bool kStoresFloats = sizeof(Element) == sizeof(float);

template <class T = Element>
inline T* row_of(const View& view, int y, int c) {
  return reinterpret_cast<T*>(view.data + y * view.row + c * view.channel);
}

// Zero the columns past the width, then write the halo vectors: the neighbours' columns.
inline void finish_row(const View& view, int y, int c) {
  if (sizeof(Element) < sizeof(float) && view.fp32_storage) return;  // only unpacking reads it
  Element* row = row_of(view, y, c);
  const int S = view.row_vectors;
  if (view.width < kLanes * S)
    for (int l = view.width / S; l < kLanes; ++l)
      for (int s = l == view.width / S ? view.width % S : 0; s < S; ++s) row[s * kLanes + l] = 0;
  for (int h = 1; h <= view.halo; ++h) {
    store_stored(row - h * kLanes, shift_lanes_up(load_stored(row + (S - h) * kLanes)));
    store_stored(row + (S - 1 + h) * kLanes, shift_lanes_down(load_stored(row + (h - 1) * kLanes)));
  }
}

// Zero the halo rows above the image if `begin` is its first row, those below if `end` is past its
// last.
inline void finish_halo_rows(const View& view, int begin, int end) {
  const int64_t bytes = int64_t(view.row_vectors + 2 * view.halo) * kLanes * sizeof(Element);
  const auto clear = [&](int y, int c) {
    std::memset(row_of(view, y, c) - view.halo * kLanes, 0, size_t(bytes));
  };
  for (int h = 1; h <= view.halo; ++h)
    for (int c = 0; c < view.channels; ++c) {
      if (begin == 0) clear(-h, c);
      if (end == view.height) clear(view.height - 1 + h, c);
    }
}

// A plain row of `width` values to lanes; finish_row zeroes what is past the width.
inline void row_to_lanes(const float* plain, Element* row, int width, int S) {
  const int full_lanes = width / S;  // lanes without a column past the width
  if (full_lanes == kLanes) {
    for (int s = 0; s < S; ++s)
      for (int l = 0; l < kLanes; ++l) row[s * kLanes + l] = to_element(plain[l * S + s]);
    return;
  }
  for (int l = 0; l < kLanes; ++l)
    for (int s = 0; s < S; ++s)
      row[s * kLanes + l] = l * S + s < width ? to_element(plain[l * S + s]) : Element(0);
}

template <class T>
inline void lanes_to_row(const T* row, float* plain, int width, int S) {
  for (int l = 0; l * S < width; ++l) {
    const int count = width - l * S < S ? width - l * S : S;
    for (int s = 0; s < count; ++s) plain[l * S + s] = to_float(row[s * kLanes + l]);
  }
}

}  // namespace
