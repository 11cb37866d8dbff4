// How do steps that follow each other take turns, a band of rows at a time?
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "program.h"

namespace thinlens {
namespace {

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

bool share(const Slice& a, const Slice& b) {
  return a.tensor == b.tensor && a.first < b.first + b.channels && b.first < a.first + a.channels;
}

}  // namespace

std::vector<int> Program::touched(const Step& step) {
  std::vector<int> found;
  if (step.out.tensor >= 0) found.push_back(step.out.tensor);
  for (const Reach& reach : step.reads) found.push_back(reach.slice.tensor);
  return found;
}

void Program::bands(int first, const std::vector<std::vector<int>>& ends) {
  const int last = int(steps_.size());
  if (first < (groups_.empty() ? 0 : groups_.back().last) || first >= last || ends.empty())
    refuse("bands need steps of their own");
  Group group{first, last, ends, {}};
  check_order(group);
  check_apart(group);
  for (int t = 0; t < int(tensors_.size()); ++t)
    if (tensors_[t].rolls) {
      Rolling found = rolling(group, t);
      if (!found.from.empty()) group.rolling.push_back(std::move(found));
    }
  for (int i = first; i < last; ++i) steps_[i].banded = true;
  groups_.push_back(std::move(group));
}

// Every row is computed once, and after the rows that it reads.
void Program::check_order(const Group& g) const {
  const size_t count = size_t(g.last - g.first);
  for (size_t b = 0; b < g.ends.size(); ++b) {
    if (g.ends[b].size() != count) refuse("bands need an end for each step");
    for (size_t i = 0; i < count; ++i) {
      const Step& step = steps_[g.first + i];
      const int begin = b ? g.ends[b - 1][i] : 0, end = g.ends[b][i];
      if (end < begin || end > step.rows || (b + 1 == g.ends.size() && end != step.rows))
        refuse("bands must rise to the last row of each step");
      for (const Reach& reach : step.reads)
        for (size_t k = 0; k < count; ++k) {
          const Step& other = steps_[g.first + k];
          if (!share(other.out, reach.slice)) continue;
          if (k >= i) refuse("a band is read before it is written");
          const int64_t lowest = int64_t(end - 1) * reach.stride + reach.below + 1;
          const int64_t height = tensors_[reach.slice.tensor].view.height;
          if (end > 0 && int64_t(g.ends[b][k]) * other.scale < std::min(lowest, height))
            refuse("a band reads rows that are not there yet");
        }
    }
  }
}

// Nothing that a group writes lies over anything else that it uses.
void Program::check_apart(const Group& g) const {
  for (int i = g.first; i < g.last; ++i)
    for (int k = g.first; k < g.last; ++k) {
      const int written = steps_[i].out.tensor;
      if (written < 0) continue;
      if (i != k && share(steps_[i].out, steps_[k].out)) refuse("two steps write the same band");
      for (int t : touched(steps_[k])) {
        const Memory &a = tensors_[written], &b = tensors_[t];
        if (t != written && a.begin < b.end && b.begin < a.end)
          refuse("tensors of a band lie over each other");
      }
    }
}

// Which rows of a tensor lie in memory in each band; nothing for a tensor that the group has not.
Program::Rolling Program::rolling(const Group& g, int tensor) const {
  const Memory& m = tensors_[tensor];
  Rolling found{tensor, {}, {}};
  for (size_t b = 0; b < g.ends.size(); ++b) {
    int from = m.view.height, to = 0;
    bool written = false, used = false;
    const auto before = [&](int i) { return b ? g.ends[b - 1][i - g.first] : 0; };
    for (int i = g.first; i < g.last; ++i) {
      const Step& step = steps_[i];
      if (step.out.tensor == tensor) {
        used = written = true;
        from = std::min(from, before(i) * step.scale);
        to = std::max(to, g.ends[b][i - g.first] * step.scale);
      }
      for (const Reach& reach : step.reads)
        if (reach.slice.tensor == tensor) {
          used = true;
          from = std::min(from, before(i) * reach.stride - reach.above);
        }
    }
    if (!used) return found;
    if (!written) refuse("a tensor that rolls is read outside its bands");
    if (b == 0) from = -m.view.halo;
    if (to == m.view.height) to += m.view.halo;
    from = std::max(from, -m.view.halo);
    if (to - from > m.room) refuse("a band has no room in its tensor");
    found.from.push_back(from);
    found.to.push_back(to);
  }
  return found;
}

// Move the rows that are still needed to the beginning.
void Program::roll(const Rolling& r, int band) {
  Memory& m = tensors_[r.tensor];
  const View& v = m.view;
  char* const begin = reinterpret_cast<char*>(arena_.get() + m.begin);
  if (band > 0) {
    const int64_t gone = r.from[band] - r.from[band - 1], kept = r.to[band - 1] - r.from[band];
    if (gone > 0 && kept > 0) std::memmove(begin, begin + gone * v.row, size_t(kept * v.row));
  }
  m.shift = -int64_t(r.from[band] + v.halo) * v.row;
}

void Program::run_group(Pool& pool, const Group& g, const Scratch& scratch) {
  for (size_t b = 0; b < g.ends.size(); ++b) {
    for (const Rolling& r : g.rolling) roll(r, int(b));
    for (int i = g.first; i < g.last; ++i) {
      const int begin = b ? g.ends[b - 1][i - g.first] : 0, end = g.ends[b][i - g.first];
      if (begin < end) run_rows(pool, size_t(i), begin, end, scratch);
    }
  }
}

}  // namespace thinlens
