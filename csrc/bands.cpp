// How do steps that follow each other take turns, a band of rows at a time, each thread on a stripe?
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "clock.h"
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

void Program::bands(int first, const std::vector<std::vector<std::vector<int>>>& stripes) {
  const int last = int(steps_.size());
  if (first < (groups_.empty() ? 0 : groups_.back().last) || first >= last || stripes.empty())
    refuse("bands need steps of their own");
  Group group{first, last, {}};
  for (const auto& rows : stripes) {
    group.stripes.push_back({rows, {}});
    check_order(group, group.stripes.back());
  }
  check_stripes(group);
  check_apart(group);
  for (int t = 0; t < int(tensors_.size()); ++t)
    if (tensors_[t].rolls)
      for (Stripe& stripe : group.stripes) {
        Rolling found = rolling(group, stripe, t);
        if (found.from.empty()) break;
        if (tensors_[t].copies < int(stripes.size())) refuse("a stripe has no copy of its tensor");
        stripe.rolling.push_back(std::move(found));
      }
  for (int i = first; i < last; ++i) steps_[i].banded = true;
  groups_.push_back(std::move(group));
}

// A stripe computes every row once, and after the rows that it reads.
void Program::check_order(const Group& g, const Stripe& s) const {
  const size_t count = size_t(g.last - g.first);
  if (s.bands() < 1) refuse("bands need steps of their own");
  for (const auto& rows : s.rows)
    if (rows.size() != count) refuse("bands need an end for each step");
  for (size_t i = 0; i < count; ++i)
    if (s.rows[0][i] < 0) refuse("bands must rise to the last row of each step");
  for (int b = 1; b <= s.bands(); ++b)
    for (size_t i = 0; i < count; ++i) {
      const Step& step = steps_[g.first + i];
      const int begin = s.rows[b - 1][i], end = s.rows[b][i];
      if (end < begin || end > step.rows) refuse("bands must rise to the last row of each step");
      if (begin == end) continue;
      for (const Reach& reach : step.reads)
        for (size_t k = 0; k < count; ++k) {
          const Step& other = steps_[g.first + k];
          if (!share(other.out, reach.slice)) continue;
          if (k >= i) refuse("a band is read before it is written");
          const int64_t top = int64_t(begin) * reach.stride - reach.above;
          const int64_t bottom = int64_t(end - 1) * reach.stride + reach.below + 1;
          const int64_t height = tensors_[reach.slice.tensor].view.height;
          if (int64_t(s.rows[0][k]) * other.scale > std::max<int64_t>(top, 0) ||
              int64_t(s.rows[b][k]) * other.scale < std::min(bottom, height))
            refuse("a band reads rows that are not there yet");
        }
    }
}

// Stripes share what does not roll, row by row: each begins where the one above it ends.
void Program::check_stripes(const Group& g) const {
  for (int i = g.first; i < g.last; ++i) {
    const int out = steps_[i].out.tensor;
    if (out >= 0 && tensors_[out].rolls) continue;
    int done = 0;
    for (const Stripe& s : g.stripes) {
      if (s.rows.front()[i - g.first] != done) refuse("a stripe begins where another does not end");
      done = s.rows.back()[i - g.first];
    }
    if (done != steps_[i].rows) refuse("bands must rise to the last row of each step");
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
Program::Rolling Program::rolling(const Group& g, const Stripe& s, int tensor) const {
  const Memory& m = tensors_[tensor];
  Rolling found{tensor, {}, {}};
  for (int b = 1; b <= s.bands(); ++b) {
    const auto &before = s.rows[b - 1], &after = s.rows[b];
    int from = m.view.height, to = 0;
    bool written = false, used = false, top = false;
    for (int i = g.first; i < g.last; ++i) {
      const Step& step = steps_[i];
      const int begin = before[i - g.first], end = after[i - g.first];
      if (step.out.tensor == tensor) {
        used = written = true;
        top = top || s.rows[0][i - g.first] == 0;
        from = std::min(from, begin * step.scale);
        to = std::max(to, end * step.scale);
      }
      for (const Reach& reach : step.reads)
        if (reach.slice.tensor == tensor) {
          used = true;
          from = std::min(from, begin * reach.stride - reach.above);
        }
    }
    if (!used) return found;
    if (!written) refuse("a tensor that rolls is read outside its bands");
    if (b == 1) from = top ? -m.view.halo : std::max(from, 0);
    if (to == m.view.height) to += m.view.halo;
    from = std::max(from, -m.view.halo);
    if (to - from > m.room) refuse("a band has no room in its tensor");
    found.from.push_back(from);
    found.to.push_back(to);
  }
  return found;
}

// Move the rows that are still needed to the beginning.
void Program::roll(const Rolling& r, int band, int copy, int64_t* shift) const {
  const Memory& m = tensors_[r.tensor];
  const View& v = m.view;
  const int64_t first = int64_t(copy) * m.room * v.row;
  char* const begin = reinterpret_cast<char*>(arena_.get() + m.begin) + first;
  if (band > 0) {
    const int64_t gone = r.from[band] - r.from[band - 1], kept = r.to[band - 1] - r.from[band];
    if (gone > 0 && kept > 0) std::memmove(begin, begin + gone * v.row, size_t(kept * v.row));
  }
  *shift = first - int64_t(r.from[band] + v.halo) * v.row;
}

void Program::run_group(Pool& pool, const Group& g, const Scratch& scratch) {
  const int stripes = int(g.stripes.size());
  std::vector<std::vector<double>> taken(g.stripes.size());
  pool.run(stripes, [&](int stripe, int worker) {
    taken[stripe] = run_stripe(g, stripe, scratch[worker].get(), pool.size() == 1);
  });
  for (const auto& one : taken)
    for (size_t i = 0; i < one.size(); ++i)
      seconds_[g.first + i] += one[i] / std::min(stripes, pool.size());
}

// Return what each step took.
std::vector<double> Program::run_stripe(const Group& g, int stripe, float* scratch,
                                        bool alone) const {
  const Stripe& s = g.stripes[stripe];
  std::vector<double> taken(size_t(g.last - g.first), 0.0);
  std::vector<int64_t> shifts(tensors_.size(), 0);
  for (int b = 0; b < s.bands(); ++b) {
    for (const Rolling& r : s.rolling) roll(r, b, stripe, &shifts[r.tensor]);
    for (size_t i = 0; i < taken.size(); ++i) {
      const int begin = s.rows[b][i], end = s.rows[b + 1][i];
      if (begin == end) continue;
      const double start = thinlens::now(alone);
      steps_[g.first + i].work(begin, end, {scratch, shifts.data()});
      taken[i] += thinlens::now(alone) - start;
    }
  }
  return taken;
}

}  // namespace thinlens
