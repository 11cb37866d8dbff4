// Cutting a program's steps into groups that stream by row blocks: docs in engine/stream.py.
#include "stream_plan.h"

#include <algorithm>
#include <string>

#include "errors.h"

namespace thinlens {
namespace {

constexpr int kMaxRows = 1 << 24;
constexpr int kMaxFactor = 1 << 16;  // of rows

int64_t divided_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

int64_t rounded_up(int64_t rows, int step) { return divided_up(rows, step) * step; }

int block_count(int begin, int end, const StreamLimits& limits) {
  return std::min(limits.blocks, std::max(1, (end - begin) / limits.block_rows));
}

void require_range(int value, int least, int most, const char* what) {
  if (value < least || value > most)
    refuse(std::string(what) + " are " + std::to_string(least) + " to " + std::to_string(most) +
           ", not " + std::to_string(value));
}

}  // namespace

StreamPlan::StreamPlan(std::vector<StreamNode> nodes, std::vector<StreamBuffer> buffers)
    : nodes_(std::move(nodes)),
      buffers_(std::move(buffers)),
      readers_(nodes_.size()),
      first_users_(buffers_.size(), INT32_MAX),
      last_users_(buffers_.size(), -1) {
  const int count = int(buffers_.size());
  for (const StreamBuffer& b : buffers_) {
    require_range(b.height, 1, kMaxRows, "a buffer's rows");
    require_range(b.halo, 0, kMaxRows, "a halo's rows");
    if (b.row_bytes < 0 || b.row_bytes > (int64_t(1) << 40)) refuse("a row is too large");
  }
  const auto use = [&](int buffer, int node) {
    require_range(buffer, 0, count - 1, "the numbers of buffers");
    first_users_[size_t(buffer)] = std::min(first_users_[size_t(buffer)], node);
    last_users_[size_t(buffer)] = std::max(last_users_[size_t(buffer)], node);
  };
  for (int i = 0; i < int(nodes_.size()); ++i) {
    const StreamNode& node = nodes_[size_t(i)];
    require_range(node.rows, 1, kMaxRows, "a node's rows");
    require_range(node.upscale, 1, kMaxFactor, "a pixel shuffle's factors");
    require_range(node.row_step, 1, kMaxFactor, "a step's rows");
    use(node.buffer, i);
    for (const StreamRead& read : node.reads) {
      require_range(read.node, -1, i - 1, "the numbers of the nodes that another one reads");
      require_range(read.stride, 0, kMaxRows, "strides");
      require_range(read.divisor, 1, kMaxRows, "divisors");
      require_range(read.above, -kMaxRows, kMaxRows, "the rows above");
      require_range(read.below, -kMaxRows, kMaxRows, "the rows below");
      use(read.buffer, i);
      if (read.node >= 0) readers_[size_t(read.node)].push_back({i, read});
    }
  }
}

std::vector<StreamGroup> StreamPlan::groups(const StreamLimits& limits, int threads) const {
  require_range(limits.block_rows, 1, kMaxRows, "a block's fewest rows");
  require_range(limits.strip_rows, 1, kMaxRows, "a strip's fewest rows");
  require_range(limits.blocks, 1, kMaxFactor, "the most row blocks");
  std::vector<StreamGroup> groups;
  for (int first = 0; first < int(nodes_.size());) {
    int end = first;
    while (end < int(nodes_.size()) && nodes_[size_t(end)].streams) ++end;
    StreamGroup group = best(first, end, limits, threads);
    first += std::max(1, group.count);
    if (group.count) groups.push_back(std::move(group));
  }
  return groups;
}

std::vector<StreamPlan::Cut> StreamPlan::cuts(int node, const StreamLimits& limits,
                                              int threads) const {
  const int64_t rows = nodes_[size_t(node)].rows;
  const int64_t count = std::max<int64_t>(1, std::min<int64_t>(threads, rows / limits.strip_rows));
  std::vector<Cut> cuts;
  for (int64_t i = 0; i < count; ++i)
    cuts.push_back({int(rows * i / count), int(rows * (i + 1) / count)});
  return cuts;
}

bool StreamPlan::has_blocks(int node, const StreamLimits& limits, int threads) const {
  const Cut cut = cuts(node, limits, threads).front();
  return block_count(cut.begin, cut.end, limits) > 1;
}

// The longest group from `first` on that fits and is useful; none where its count is 0. Longer ones
// take more bytes: lengths are doubled, then bisected.
StreamGroup StreamPlan::best(int first, int end, const StreamLimits& limits, int threads) const {
  std::vector<bool> blocks;
  for (int i = first; i < end; ++i) blocks.push_back(has_blocks(i, limits, threads));
  if (blocks.size() > 1 && std::find(blocks.begin() + 1, blocks.end(), true) != blocks.end())
    for (int count = longest(first, end, limits, threads); count > 1; --count) {
      const int last = first + count - 1;
      if (!blocks[size_t(count - 1)]) continue;
      StreamGroup candidate = group(first, count, limits, cuts(last, limits, threads));
      if (is_useful(candidate)) return candidate;
    }
  return {first, 0, {}, {}};
}

int StreamPlan::longest(int first, int end, const StreamLimits& limits, int threads) const {
  int fitting = 0, excess = 1;
  while (excess <= end - first && fits(first, excess, limits, threads)) {
    fitting = excess;
    excess *= 2;
  }
  excess = std::min(excess, end - first + 1);
  while (excess - fitting > 1) {
    const int middle = (fitting + excess) / 2;
    (fits(first, middle, limits, threads) ? fitting : excess) = middle;
  }
  return fitting;
}

// Whether the line buffers of one thread, that of the first strip, fit into the cache.
bool StreamPlan::fits(int first, int count, const StreamLimits& limits, int threads) const {
  const Cut cut = cuts(first + count - 1, limits, threads).front();
  int64_t bytes = 0;
  for (const auto [buffer, rows] : group(first, count, limits, {cut}).line_buffers)
    bytes += rows * buffers_[size_t(buffer)].row_bytes;
  return bytes <= limits.cache_bytes;
}

// Whether there are a line buffer and several row blocks, and no two strips write the same row of a
// buffer that is no line buffer.
bool StreamPlan::is_useful(const StreamGroup& g) const {
  if (g.line_buffers.empty() || g.strips.front().size() < 3) return false;
  std::vector<bool> is_line_buffer(buffers_.size(), false);
  for (const LineBufferRows& lines : g.line_buffers) is_line_buffer[size_t(lines.buffer)] = true;
  for (int i = 0; i < g.count; ++i) {
    const StreamNode& node = nodes_[size_t(g.first + i)];
    if (!node.is_step || is_line_buffer[size_t(node.buffer)]) continue;
    for (size_t s = 1; s < g.strips.size(); ++s)
      if (g.strips[s - 1].back()[size_t(i)] != g.strips[s].front()[size_t(i)]) return false;
  }
  return true;
}

StreamGroup StreamPlan::group(int first, int count, const StreamLimits& limits,
                              const std::vector<Cut>& cuts) const {
  StreamGroup group{first, count, {}, {}};
  for (const int buffer : internal_buffers(first, count)) group.line_buffers.push_back({buffer, 0});
  for (const Cut& cut : cuts) {
    group.strips.push_back(progression(first, count, cut, limits));
    const std::vector<int> rows = rows_of(first, count, group.strips.back());
    for (LineBufferRows& lines : group.line_buffers)
      lines.rows = std::max(lines.rows, rows[size_t(lines.buffer)]);
  }
  return group;
}

// The buffers that the nodes write and no others use, in the order in which they are written.
std::vector<int> StreamPlan::internal_buffers(int first, int count) const {
  std::vector<int> internal;
  for (int i = first; i < first + count; ++i) {
    const int buffer = nodes_[size_t(i)].buffer;
    if (!buffers_[size_t(buffer)].is_output && first_users_[size_t(buffer)] >= first &&
        last_users_[size_t(buffer)] < first + count &&
        std::find(internal.begin(), internal.end(), buffer) == internal.end())
      internal.push_back(buffer);
  }
  return internal;
}

// Rows at the beginning, and after each block, of the last node's rows. Nodes compute no more than
// those after them need, in whole steps of theirs.
Progression StreamPlan::progression(int first, int count, Cut cut,
                                    const StreamLimits& limits) const {
  const int blocks = block_count(cut.begin, cut.end, limits);
  const int64_t last_rows = nodes_[size_t(first + count - 1)].rows;
  std::vector<int64_t> ends;
  for (int64_t b = 0; b <= blocks; ++b)
    ends.push_back(cut.begin + divided_up((cut.end - cut.begin) * b, blocks));
  Progression table(ends.size(), std::vector<int>(size_t(count)));
  for (int i = count - 1; i >= 0; --i) {
    const StreamNode& node = nodes_[size_t(first + i)];
    const auto reach = [&](int64_t row) { return int(std::min<int64_t>(node.rows, row)); };
    std::vector<Reader> readers;
    for (const Reader& reader : readers_[size_t(first + i)])
      if (reader.node < first + count) readers.push_back(reader);
    int64_t begin = INT64_MAX;
    for (const auto& [reader, read] : readers)
      begin = std::min(begin, read.first(table[0][size_t(reader - first)]));
    for (size_t b = 0; b < ends.size(); ++b) {
      int& row = table[b][size_t(i)];
      if (readers.empty()) {
        row = reach(rounded_up(divided_up(ends[b] * node.rows, last_rows), node.row_step));
      } else if (b == 0) {
        row = int(std::max<int64_t>(begin, 0) / node.upscale / node.row_step * node.row_step);
      } else if (ends[b] == last_rows) {
        row = node.rows;
      } else {
        int64_t needed = 0;
        for (const auto& [reader, read] : readers)
          if (const int reached = table[b][size_t(reader - first)]; reached > 0)
            needed = std::max(needed, read.end(reached));
        row = reach(rounded_up(divided_up(needed, node.upscale), node.row_step));
      }
    }
  }
  for (size_t b = 1; b < table.size(); ++b)
    for (size_t i = 0; i < table[b].size(); ++i)
      table[b][i] = std::max(table[b][i], table[b - 1][i]);
  return table;
}

std::vector<int> StreamPlan::buffer_rows(const Progression& strip) const {
  for (const auto& rows : strip)
    if (rows.size() != nodes_.size()) refuse("a strip has a row for every node");
  return rows_of(0, int(nodes_.size()), strip);
}

// As `Program::line_window`: by buffer, the rows that must be in memory in a row block at most.
std::vector<int> StreamPlan::rows_of(int first, int count, const Progression& strip) const {
  std::vector<int> most(buffers_.size(), 0);
  std::vector<int64_t> begins(buffers_.size()), ends(buffers_.size());
  for (size_t b = 1; b < strip.size(); ++b) {
    for (size_t k = 0; k < buffers_.size(); ++k) begins[k] = buffers_[k].height, ends[k] = 0;
    for (int i = 0; i < count; ++i) {
      const StreamNode& node = nodes_[size_t(first + i)];
      const int64_t before = strip[b - 1][size_t(i)], after = strip[b][size_t(i)];
      const size_t written = size_t(node.buffer);
      // its first row comes with those above the image
      const int64_t top = before == 0 ? -buffers_[written].halo : before * node.upscale;
      begins[written] = std::min(begins[written], top);
      ends[written] = std::max(ends[written], after * node.upscale);
      for (const StreamRead& read : node.reads) {
        int64_t& begin = begins[size_t(read.buffer)];
        begin = std::min(begin, read.first(before));
      }
    }
    for (size_t k = 0; k < buffers_.size(); ++k) {
      const StreamBuffer& buffer = buffers_[k];
      int64_t begin = std::max<int64_t>(begins[k], -buffer.halo);
      if (b == 1 && begin <= 0) begin = -buffer.halo;  // the first block holds the rows above
      const int64_t below = ends[k] == buffer.height ? buffer.halo : 0;
      most[k] = std::max<int>(most[k], int(ends[k] + below - begin));
    }
  }
  return most;
}

}  // namespace thinlens
