// Cutting a program's steps into groups that stream by row blocks, and the rows of their buffers.
#pragma once

#include <cstdint>
#include <vector>

namespace thinlens {

struct StreamRead {  // an input of a node, and the rows of it that one computed row reads
  int node;          // that computes it
  int buffer;        // in which it lies
  int stride = 1, above = 0, below = 0, divisor = 1;  // see Footprint

  int64_t first(int64_t row) const { return row * stride / divisor - above; }
  int64_t end(int64_t rows) const { return (rows - 1) * stride / divisor + below + 1; }
};

struct StreamNode {  // an operation
  int rows;          // of its output, before its pixel shuffle
  int upscale;       // rows of its output for each of them
  int row_step;      // rows that it advances by
  int buffer;        // that it writes
  bool streams;      // whether it can run row by row
  bool is_step;      // whether a step of the program computes it
  std::vector<StreamRead> reads;
};

struct StreamBuffer {
  int height, halo;
  int64_t row_bytes;
  bool is_output;  // of the network
};

struct StreamLimits {
  int64_t cache_bytes;                 // of a thread's line buffers
  int block_rows, strip_rows, blocks;  // fewest rows of a block and of a strip, most blocks
};

// [row blocks + 1][nodes]: the rows where each node begins, then those reached after each block.
using Progression = std::vector<std::vector<int>>;

struct LineBufferRows {
  int buffer, rows;
};

struct StreamGroup {  // nodes [first, first + count)
  int first, count;
  std::vector<Progression> strips;
  std::vector<LineBufferRows> line_buffers;  // the buffers that only these nodes use
};

// The operations of a network in the order in which they run. The constructor validates all numbers
// and throws std::invalid_argument.
class StreamPlan {
 public:
  StreamPlan(std::vector<StreamNode> nodes, std::vector<StreamBuffer> buffers);

  // Groups as long as their line buffers fit into the cache; what runs alone is in none.
  std::vector<StreamGroup> groups(const StreamLimits&, int threads) const;
  // The rows, the halo's included, that a strip of all nodes needs of every buffer at most.
  std::vector<int> buffer_rows(const Progression& strip) const;

 private:
  struct Reader {
    int node;
    StreamRead read;
  };
  struct Cut {  // a strip of the last node's rows
    int begin, end;
  };

  std::vector<Cut> cuts(int node, const StreamLimits&, int threads) const;
  bool has_blocks(int node, const StreamLimits&, int threads) const;
  Progression progression(int first, int count, Cut, const StreamLimits&) const;
  std::vector<int> rows_of(int first, int count, const Progression&) const;
  std::vector<int> internal_buffers(int first, int count) const;
  StreamGroup group(int first, int count, const StreamLimits&, const std::vector<Cut>&) const;
  bool fits(int first, int count, const StreamLimits&, int threads) const;
  bool is_useful(const StreamGroup&) const;
  int longest(int first, int end, const StreamLimits&, int threads) const;
  StreamGroup best(int first, int end, const StreamLimits&, int threads) const;

  const std::vector<StreamNode> nodes_;
  const std::vector<StreamBuffer> buffers_;
  std::vector<std::vector<Reader>> readers_;   // by node
  std::vector<int> first_users_, last_users_;  // by buffer
};

}  // namespace thinlens
