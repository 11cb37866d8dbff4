// How does a planned network run?
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "layout.h"
#include "pool.h"
#include "table.h"

namespace thinlens {

struct Slice {  // `channels` of a tensor, from `first` on
  int tensor, first, channels;
};

// Steps over tensors that share one arena. Every method checks what it is told and throws
// std::invalid_argument, so that no step can touch memory outside its tensors.
class Program {
 public:
  Program(const Kernels& kernels, int64_t arena_floats);

  // In floats, whatever the tensor holds; `wide` ones hold floats, others what the kernels store.
  static int64_t size(const Kernels&, int channels, int height, int columns, int halo, bool wide);
  int tensor(int64_t offset, int channels, int height, int width, int columns, int halo, bool wide);

  void pack(Slice out, int first_channel);  // from the input image
  void unpack(Slice in);                    // to the output image
  // A residual of tensor -1 is none; group 0 asks for the dense kernel.
  void conv(std::shared_ptr<const Table>, Slice in, Slice out, Slice residual, float slope,
            int shuffle, int group);
  void combine(Slice x, Slice y, Slice out, float alpha, float beta, std::vector<float> shift,
               float slope);
  void gate(Slice x, Slice y, Slice out);
  void pool(Slice in, Slice out, int size, int stride);
  void resize(Slice in, Slice out);

  // Run all steps on one image [channels, height, width]. One run at a time; others wait.
  void run(Pool&, const float* input, int input_channels, int input_height, int input_width,
           float* output, int output_channels, int output_height, int output_width);
  // What each step of the last run took: CPU time where the pool is one thread, else wall time.
  std::vector<double> seconds() const { return seconds_; }

 private:
  struct Memory {
    int64_t begin, end;
    View view;
  };
  struct Step {
    int rows, block;  // output rows, and how many of them a thread takes at a time
    std::function<void(int begin, int end, float* scratch)> work;
  };
  struct Image {
    const float* input = nullptr;
    float* output = nullptr;
    int input_height = 0, input_width = 0, output_height = 0, output_width = 0;
  };

  View view(const Slice&) const;
  View stored(const Slice&) const;  // of a tensor that is not wide
  void apart(const Slice& a, const Slice& b) const;
  void need_scratch(int64_t floats);
  void add(int rows, int block, std::function<void(int, int, float*)> work);
  void combine_step(Slice x, Slice y, Slice out, CombineJob job, std::vector<float> shift);

  const Kernels& kernels_;
  int64_t floats_;
  std::shared_ptr<float> arena_;
  std::vector<Memory> tensors_;
  std::vector<Step> steps_;
  std::vector<double> seconds_;
  int64_t scratch_floats_ = 0;
  int input_channels_ = 0, output_channels_ = 0;
  int least_output_height_ = 0, least_output_width_ = 0;
  Image image_;
  std::mutex one_run_;
};

}  // namespace thinlens
