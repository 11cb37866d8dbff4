// A network as a program: operations on tensors that share one arena.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "thread_pool.h"

namespace thinlens {

template <class Float>
struct Image {  // a view of values in any order, strides in values
  Float* data;
  int channels, height, width;
  int64_t channel, row, column;
};

struct RunArguments {
  std::vector<Image<const float>> inputs;
  std::vector<Image<float>> outputs;
  std::vector<Placement> placements;  // by resize step; empty: each resizes a whole image
};

struct Footprint {  // the rows of a slice that a step reads for each of its rows
  Slice slice;
  int stride = 1, above = 0, below = 0;
  int divisor = 1;  // of `stride`: row y reads around row y * stride / divisor, rounded down

  int64_t first(int64_t row) const { return row * stride / divisor - above; }
  int64_t last(int64_t row) const { return row * stride / divisor + below; }
};

struct ThreadContext {
  float* scratch;
  const int64_t* shifts;  // by tensor: bytes that its row 0 has moved, where it is a line buffer
};

struct Step {      // one operation
  int rows;        // of the output, before a pixel shuffle
  int block_rows;  // that a thread computes at a time
  std::vector<Footprint> reads;
  Slice output;   // kNoSlice: the output image
  int scale = 1;  // rows of `output` per row
  std::function<void(int begin, int end, const ThreadContext&)> run{};
  bool streamed = false;  // as one of a fused group
  bool whole = false;     // its rows are not those of `output`: it cannot be streamed
  int input = -1;         // the number of the image that it reads
  int output_image = -1;  // the number of the image that it writes
  int placement = -1;     // the number of the placement that it resizes by
};

// Every method validates its arguments and throws std::invalid_argument, so that no step can touch
// memory outside its tensors. Operations are added by operations.cpp.
class Program {
 public:
  Program(const Kernels& kernels, int64_t arena_floats);

  // The size of a tensor in units of 4 bytes, whatever its storage.
  static int64_t floats(const Kernels&, const Shape&, LineBuffer);
  // Place a tensor in the arena and return its number. A line buffer may only be used by stream().
  int tensor(int64_t offset, const Shape&, LineBuffer);

  const Kernels& kernels() const { return kernels_; }
  View view(const Slice&) const;
  View activation(const Slice&) const;  // refuses tensors in fp32_storage, which no kernel reads
  void require_disjoint(const View& read, const View& written) const;
  void require_scratch(int64_t floats) { scratch_floats_ = std::max(scratch_floats_, floats); }
  void require_input_channels(int image, int channels);
  void set_output(int image, const View&);
  int next_placement() { return placements_++; }
  int64_t* saturated_counter() { return &saturated_; }
  float* next_range() { return &ranges_.emplace_back(0.0f); }

  // Append a step that runs `kernel` on `job`; `bind(job, run_arguments)` sets what each run
  // changes. `job.views()` are moved to where line buffers hold their rows.
  template <class Job, class Bind>
  void add(Kernel<Job> kernel, const Job& job, Step step, Bind bind) {
    step.run = [this, kernel, job, bind](int begin, int end, const ThreadContext& thread) {
      Job bound = job;
      for (View* view : bound.views())
        if (view->data) view->data += thread.shifts[view->slice.tensor];
      bind(bound, run_);
      kernel(bound, begin, end, thread.scratch);
    };
    steps_.push_back(std::move(step));
  }

  // Fuse the steps from `first_step` on. Each strip is computed by one thread, row block by row
  // block: step i begins at row strip[0][i] and has reached row strip[b][i] after row block b. Rows
  // that the next step reads are then still in the cache, tensors that only these steps use may be
  // line buffers, and threads synchronise only at the end. Rows of a line buffer that two strips
  // need are computed by both.
  void stream(int first_step, const std::vector<std::vector<std::vector<int>>>& strips);

  // Run the steps from `first` up to `last` (-1: all) on images. Concurrent calls run one after the
  // other. What earlier steps have written is still in the arena.
  void run(ThreadPool&, const RunArguments&, int first = 0, int last = -1);
  // Run the row blocks from `first` up to `last` of a program that is one fused group of one strip;
  // blocks run in order, with the same input. The outputs begin at row `output_top`.
  void run_blocks(ThreadPool&, const RunArguments&, int first, int last, int output_top);
  // Return the arena's memory to the system until the next run, which starts from zeros.
  void release();
  // Seconds that each step of the last run took: CPU time where the pool is one thread, else wall
  // time (of streamed steps: the mean over the threads).
  std::vector<double> seconds() const { return seconds_; }
  // Inputs of int16 convolutions that were beyond their range, in all runs.
  int64_t saturated() const { return __atomic_load_n(&saturated_, __ATOMIC_RELAXED); }
  // The largest magnitudes, of all runs, of the tensors whose range is recorded.
  std::vector<float> ranges() const { return {ranges_.begin(), ranges_.end()}; }

 private:
  struct Buffer {
    int64_t begin, end;  // in the arena, in floats
    View view;
    int rows, copies;  // rows in memory, the halo's included, and how many times
    int wrap;          // see LineBuffer
    bool line_buffer;

    int window() const { return wrap ? wrap : rows; }  // rows that differ
  };
  struct LineWindow {  // the rows of a line buffer that are in memory, by row block
    int tensor;
    std::vector<int> begin, end;
  };
  struct Strip {
    std::vector<std::vector<int>> rows;
    std::vector<LineWindow> windows;

    int row_blocks() const { return int(rows.size()) - 1; }
  };
  struct FusedGroup {  // steps [first, last)
    int first, last;
    std::vector<Strip> strips;
    int next_block = 0;  // of run_blocks
  };
  struct RowRange {
    int first, last;
  };

  void check_order(const FusedGroup&, const Strip&) const;
  void check_strips(const FusedGroup&) const;
  void check_disjoint(const FusedGroup&) const;
  LineWindow line_window(const FusedGroup&, const Strip&, int tensor) const;
  RowRange touched_rows(const Step&, int begin, int end, int tensor) const;
  void check_wraps(const FusedGroup&, const Strip&) const;
  void advance(const LineWindow&, int row_block, int copy, int64_t* shift) const;
  void repeat_rows(const Step&, int begin, int end, int copy, int64_t shift) const;
  using Scratch = std::vector<std::shared_ptr<float>>;  // by thread
  void run_step(ThreadPool&, size_t step, const Scratch&, const int64_t* no_shifts);
  void run_group(ThreadPool&, const FusedGroup&, const Scratch&);
  std::vector<double> run_strip(const FusedGroup&, int strip, float* scratch,
                                bool thread_cpu_time) const;
  void run_shared(ThreadPool&, const FusedGroup&, const Scratch&, int first, int last);
  void place(const FusedGroup&, int row_block, int copy, std::vector<int64_t>* shifts) const;
  void place_step(const Step&, int begin, int end, int copy, std::vector<int64_t>* shifts) const;
  Scratch scratch(const ThreadPool&) const;
  void check_arguments(const RunArguments&, int first, int last) const;
  static std::vector<int> tensors_of(const Step&);

  const Kernels& kernels_;
  int64_t floats_;
  std::shared_ptr<float> arena_;
  std::vector<Buffer> tensors_;
  std::vector<Step> steps_;
  std::vector<FusedGroup> groups_;
  std::vector<double> seconds_;
  int64_t scratch_floats_ = 0, saturated_ = 0;
  std::deque<float> ranges_;  // whose addresses stay
  struct ImageSize {
    int channels = 0, height = 0, width = 0;
  };
  void check_images(const Step&, const RunArguments&) const;

  std::vector<int> input_channels_;      // by image; 0: not read
  std::vector<ImageSize> output_sizes_;  // by image: channels, and the largest sides
  int placements_ = 0;
  RunArguments run_{};  // of the current run
  std::mutex run_mutex_;
};

// Throw std::invalid_argument with the sizes of two tensors of a step; the second: where they
// differ.
[[noreturn]] void refuse_sizes(const View&, const View&);
void require_same_size(const View&, const View&);

}  // namespace thinlens
