// Row-streaming execution of fused steps, with line buffers; each thread computes a strip of rows.
#include <cstring>

#include "errors.h"
#include "program.h"
#include "system.h"

namespace thinlens {
namespace {

bool overlap(const Slice& a, const Slice& b) {
  return a.tensor == b.tensor && a.first < b.first + b.channels && b.first < a.first + a.channels;
}

}  // namespace

std::vector<int> Program::tensors_of(const Step& step) {
  std::vector<int> tensors;
  if (step.output.tensor >= 0) tensors.push_back(step.output.tensor);
  for (const Footprint& read : step.reads) tensors.push_back(read.slice.tensor);
  return tensors;
}

void Program::stream(int first, const std::vector<std::vector<std::vector<int>>>& strips) {
  const int last = int(steps_.size());
  if (first < (groups_.empty() ? 0 : groups_.back().last) || first >= last || strips.empty())
    refuse("a fused group needs steps and strips of its own");
  for (int i = first; i < last; ++i)
    if (steps_[i].whole) refuse("a step that reads a whole tensor cannot be fused");
  FusedGroup group{first, last, {}};
  for (const auto& rows : strips) {
    group.strips.push_back({rows, {}});
    check_order(group, group.strips.back());
  }
  check_strips(group);
  check_disjoint(group);
  for (int t = 0; t < int(tensors_.size()); ++t)
    if (tensors_[t].line_buffer)
      for (Strip& strip : group.strips) {
        LineWindow window = line_window(group, strip, t);
        if (window.begin.empty()) break;
        if (tensors_[t].copies < int(strips.size()))
          refuse(std::to_string(strips.size()) + " strips need a copy each of a line buffer, not " +
                 std::to_string(tensors_[t].copies));
        strip.windows.push_back(std::move(window));
      }
  for (const Strip& strip : group.strips) check_wraps(group, strip);
  for (int i = first; i < last; ++i) steps_[i].streamed = true;
  groups_.push_back(std::move(group));
}

// Validate that a strip computes every row once, and after the rows that it reads.
void Program::check_order(const FusedGroup& g, const Strip& s) const {
  const size_t count = size_t(g.last - g.first);
  if (s.row_blocks() < 1) refuse("a strip needs a row block of its own");
  for (const auto& rows : s.rows)
    if (rows.size() != count)
      refuse("a row block needs an end for each of " + std::to_string(count) + " steps, not " +
             std::to_string(rows.size()));
  for (size_t i = 0; i < count; ++i)
    if (s.rows[0][i] < 0) refuse("row blocks must rise to the last row of each step");
  for (int b = 1; b <= s.row_blocks(); ++b)
    for (size_t i = 0; i < count; ++i) {
      const Step& step = steps_[g.first + i];
      const int begin = s.rows[b - 1][i], end = s.rows[b][i];
      if (end < begin || end > step.rows)
        refuse("row blocks must rise to the last row of each step");
      if (begin == end) continue;
      for (const Footprint& read : step.reads)
        for (size_t k = 0; k < count; ++k) {
          const Step& producer = steps_[g.first + k];
          if (!overlap(producer.output, read.slice)) continue;
          if (k >= i) refuse("a row block is read before it is written");
          const int64_t top = read.first(begin), bottom = read.last(end - 1) + 1;
          const int64_t height = tensors_[read.slice.tensor].view.height;
          if (int64_t(s.rows[0][k]) * producer.scale > std::max<int64_t>(top, 0) ||
              int64_t(s.rows[b][k]) * producer.scale < std::min(bottom, height))
            refuse("a row block reads rows that are not computed yet");
        }
    }
}

// Validate that strips share whole tensors row by row: each begins where the one above it ends.
void Program::check_strips(const FusedGroup& g) const {
  for (int i = g.first; i < g.last; ++i) {
    const int output = steps_[i].output.tensor;
    if (output >= 0 && tensors_[output].line_buffer) continue;
    int end = 0;
    for (const Strip& s : g.strips) {
      if (s.rows.front()[i - g.first] != end) refuse("a strip begins where another does not end");
      end = s.rows.back()[i - g.first];
    }
    if (end != steps_[i].rows) refuse("row blocks must rise to the last row of each step");
  }
}

// Validate that nothing that a group writes overlaps anything else that it uses.
void Program::check_disjoint(const FusedGroup& g) const {
  for (int i = g.first; i < g.last; ++i)
    for (int k = g.first; k < g.last; ++k) {
      const int written = steps_[i].output.tensor;
      if (written < 0) continue;
      if (i != k && overlap(steps_[i].output, steps_[k].output))
        refuse("two fused steps write the same channels");
      for (int t : tensors_of(steps_[k])) {
        const Buffer &a = tensors_[written], &b = tensors_[t];
        if (t != written && a.begin < b.end && b.begin < a.end)
          refuse("tensors of fused steps overlap");
      }
    }
}

// The rows of a tensor that must be in memory in each row block; none where the group does not use
// it.
Program::LineWindow Program::line_window(const FusedGroup& g, const Strip& s, int tensor) const {
  const Buffer& buffer = tensors_[tensor];
  LineWindow window{tensor, {}, {}};
  for (int b = 1; b <= s.row_blocks(); ++b) {
    const auto &before = s.rows[b - 1], &after = s.rows[b];
    int first = buffer.view.height, last = 0;
    bool written = false, used = false, top = false;
    for (int i = g.first; i < g.last; ++i) {
      const Step& step = steps_[i];
      const int begin = before[i - g.first], end = after[i - g.first];
      if (step.output.tensor == tensor) {
        used = written = true;
        top = top || s.rows[0][i - g.first] == 0;
        // Its first row comes with those above the image.
        first = std::min(first, begin == 0 ? -buffer.view.halo : begin * step.scale);
        last = std::max(last, end * step.scale);
      }
      for (const Footprint& read : step.reads)
        if (read.slice.tensor == tensor) {
          used = true;
          first = std::min(first, int(read.first(begin)));
        }
    }
    if (!used) return window;
    if (!written) refuse("a line buffer is read outside its fused steps");
    if (b == 1) first = top ? -buffer.view.halo : std::max(first, 0);
    if (last == buffer.view.height) last += buffer.view.halo;
    first = std::max(first, -buffer.view.halo);
    if (last - first > buffer.window())
      refuse("a row block has no room in a line buffer: it needs " + std::to_string(last - first) +
             " rows of " + std::to_string(buffer.window()));
    window.begin.push_back(first);
    window.end.push_back(last);
  }
  return window;
}

// The rows of a tensor that a step reads or writes for its rows [begin, end), the halo's included.
Program::RowRange Program::touched_rows(const Step& step, int begin, int end, int tensor) const {
  const View& v = tensors_[tensor].view;
  int64_t first = INT32_MAX, last = -v.halo;
  if (step.output.tensor == tensor) {
    const int64_t top = int64_t(begin) * step.scale, bottom = int64_t(end) * step.scale;
    first = top - (top == 0 ? v.halo : 0);
    last = bottom + (bottom == v.height ? v.halo : 0);
  }
  for (const Footprint& read : step.reads)
    if (read.slice.tensor == tensor) {
      first = std::min(first, read.first(begin));
      last = std::max(last, read.last(end - 1) + 1);
    }
  return {int(std::max<int64_t>(first, -v.halo)), int(std::min<int64_t>(last, v.height + v.halo))};
}

// Validate that what a step touches in a row block lies in one piece in buffers that wrap.
void Program::check_wraps(const FusedGroup& g, const Strip& s) const {
  for (int b = 0; b < s.row_blocks(); ++b)
    for (int i = g.first; i < g.last; ++i) {
      const int begin = s.rows[b][i - g.first], end = s.rows[b + 1][i - g.first];
      if (begin == end) continue;
      for (int t : tensors_of(steps_[i])) {
        const Buffer& buffer = tensors_[t];
        if (!buffer.wrap) continue;
        const RowRange rows = touched_rows(steps_[i], begin, end, t);
        if (rows.last - rows.first > buffer.rows - buffer.wrap + 1)
          refuse("a row block has no room in a line buffer past its wrap: it touches " +
                 std::to_string(rows.last - rows.first) + " rows, " +
                 std::to_string(buffer.rows - buffer.wrap) + " are repeated");
      }
    }
}

// Move the rows that are still needed to the beginning of the line buffer.
void Program::advance(const LineWindow& w, int row_block, int copy, int64_t* shift) const {
  const Buffer& buffer = tensors_[w.tensor];
  const View& v = buffer.view;
  const int64_t copy_offset = int64_t(copy) * buffer.rows * v.row;
  char* const begin = reinterpret_cast<char*>(arena_.get() + buffer.begin) + copy_offset;
  if (row_block > 0) {
    const int64_t dropped = w.begin[row_block] - w.begin[row_block - 1];
    const int64_t kept = w.end[row_block - 1] - w.begin[row_block];
    if (dropped > 0 && kept > 0) std::memmove(begin, begin + dropped * v.row, size_t(kept * v.row));
  }
  *shift = copy_offset - int64_t(w.begin[row_block] + v.halo) * v.row;
}

// Let a row block find its rows in the line buffers that do not wrap.
void Program::place(const FusedGroup& g, int row_block, int copy,
                    std::vector<int64_t>* shifts) const {
  for (const LineWindow& w : g.strips[copy].windows)
    if (!tensors_[w.tensor].wrap) advance(w, row_block, copy, &(*shifts)[w.tensor]);
}

// Let a step find its rows [begin, end), and those that it reads, in the line buffers that wrap.
void Program::place_step(const Step& step, int begin, int end, int copy,
                         std::vector<int64_t>* shifts) const {
  for (int t : tensors_of(step)) {
    const Buffer& buffer = tensors_[t];
    if (!buffer.wrap) continue;
    const int first = touched_rows(step, begin, end, t).first + buffer.view.halo;
    (*shifts)[t] = (int64_t(copy) * buffer.rows + first % buffer.wrap - first) * buffer.view.row;
  }
}

// Copy what a step has written to the rows of a line buffer that repeat it.
void Program::repeat_rows(const Step& step, int begin, int end, int copy, int64_t shift) const {
  const Slice& slice = step.output;
  if (slice.tensor < 0 || !tensors_[slice.tensor].wrap) return;
  const Buffer& buffer = tensors_[slice.tensor];
  const View& v = buffer.view;
  const int top = begin * step.scale, bottom = end * step.scale;
  char* const first_row = reinterpret_cast<char*>(arena_.get() + buffer.begin) +
                          int64_t(copy) * buffer.rows * v.row + slice.first * v.channel;
  const int64_t offset = shift / v.row - int64_t(copy) * buffer.rows + v.halo;
  for (int y = top == 0 ? -v.halo : top; y < (bottom == v.height ? bottom + v.halo : bottom); ++y) {
    const int64_t place = y + offset;
    const int64_t other = place >= buffer.wrap ? place - buffer.wrap : place + buffer.wrap;
    if (other < buffer.rows)
      std::memcpy(first_row + other * v.row, first_row + place * v.row,
                  size_t(slice.channels * v.channel));
  }
}

void Program::run_group(ThreadPool& pool, const FusedGroup& g, const Scratch& scratch) {
  const int strips = int(g.strips.size());
  if (strips == 1 && pool.size() > 1) {
    run_shared(pool, g, scratch, 0, g.strips[0].row_blocks());
    return;
  }
  std::vector<std::vector<double>> seconds(g.strips.size());
  pool.run(strips, [&](int strip, int worker) {
    seconds[strip] = run_strip(g, strip, scratch[worker].get(), pool.size() == 1);
  });
  for (const auto& of_strip : seconds)
    for (size_t i = 0; i < of_strip.size(); ++i)
      seconds_[g.first + i] += of_strip[i] / std::min(strips, pool.size());
}

// Run row blocks of a group's only strip; all threads share the rows of each step.
void Program::run_shared(ThreadPool& pool, const FusedGroup& g, const Scratch& scratch, int first,
                         int last) {
  const Strip& s = g.strips[0];
  const bool thread_cpu_time = pool.size() == 1;
  std::vector<int64_t> shifts(tensors_.size(), 0);
  for (int b = first; b < last; ++b) {
    place(g, b, 0, &shifts);
    for (int i = g.first; i < g.last; ++i) {
      const Step& step = steps_[i];
      const int begin = s.rows[b][i - g.first], end = s.rows[b + 1][i - g.first];
      if (begin == end) continue;
      const double start = clock_seconds(thread_cpu_time);
      place_step(step, begin, end, 0, &shifts);
      const int parts = (end - begin + step.block_rows - 1) / step.block_rows;
      pool.run(parts, [&](int part, int worker) {
        const int from = begin + part * step.block_rows;
        step.run(from, std::min(from + step.block_rows, end),
                 {scratch[worker].get(), shifts.data()});
      });
      if (step.output.tensor >= 0) repeat_rows(step, begin, end, 0, shifts[step.output.tensor]);
      seconds_[i] += clock_seconds(thread_cpu_time) - start;
    }
  }
}

// Return the seconds of each step.
std::vector<double> Program::run_strip(const FusedGroup& g, int strip, float* scratch,
                                       bool thread_cpu_time) const {
  const Strip& s = g.strips[strip];
  std::vector<double> seconds(size_t(g.last - g.first), 0.0);
  std::vector<int64_t> shifts(tensors_.size(), 0);
  for (int b = 0; b < s.row_blocks(); ++b) {
    place(g, b, strip, &shifts);
    for (size_t i = 0; i < seconds.size(); ++i) {
      const Step& step = steps_[g.first + i];
      const int begin = s.rows[b][i], end = s.rows[b + 1][i];
      if (begin == end) continue;
      const double start = clock_seconds(thread_cpu_time);
      place_step(step, begin, end, strip, &shifts);
      step.run(begin, end, {scratch, shifts.data()});
      if (step.output.tensor >= 0) repeat_rows(step, begin, end, strip, shifts[step.output.tensor]);
      seconds[i] += clock_seconds(thread_cpu_time) - start;
    }
  }
  return seconds;
}

}  // namespace thinlens
