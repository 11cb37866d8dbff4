// How does a planned network run?
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "layout.h"
#include "pool.h"
#include "table.h"

namespace thinlens {

using Place = std::array<Along, 2>;  // rows, columns

template <class Float>
struct Image {  // plain [channels, height, width]
  Float* data;
  int channels, height, width;
};

struct Slice {  // `channels` of a tensor, from `first` on
  int tensor, first, channels;
};

struct Grid {
  int channels, height, columns, halo;
};

// Steps over tensors that share one arena. Every method checks what it is told and throws
// std::invalid_argument, so that no step can touch memory outside its tensors.
class Program {
 public:
  Program(const Kernels& kernels, int64_t arena_floats);

  // In floats, whatever the tensor holds; `wide` ones hold floats, others what the kernels store.
  // A tensor with room for some `rows`, its halo's included, rolls: only bands() may use it. It is
  // there as many times as `copies` says, one for each stripe.
  static int64_t size(const Kernels&, Grid, bool wide, int rows, int copies);
  int tensor(int64_t offset, Grid, int width, bool wide, int rows, int copies);

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

  // Run the steps from `first` on by stripes, each by one thread, and a stripe by bands: step i begins
  // at row rows[0][i] and in band b goes on to rows[b][i]. Rows that the next step reads are then
  // still in the cache, tensors that only these steps use may roll, and threads wait for each other
  // only at the end. What stripes both need of a tensor that rolls, both compute.
  void bands(int first, const std::vector<std::vector<std::vector<int>>>& stripes);

  // Run all steps on one image. One run at a time; others wait. `places` says by resize step where
  // its rows and columns lie in those of a larger image; empty: they are the whole.
  void run(Pool&, const Image<const float>& input, const Image<float>& output,
           const std::vector<Place>& places);
  // What each step of the last run took: CPU time where the pool is one thread, else wall time (of
  // steps that run by stripes: the mean over the threads).
  // Give the arena's memory back until the next run, which begins with nothing of the last.
  void release();
  std::vector<double> seconds() const { return seconds_; }

 private:
  struct Memory {
    int64_t begin, end;
    View view;
    int room, copies;  // rows that fit, the halo's included, and how many times
    bool rolls;
  };
  struct Turn {  // of one thread
    float* scratch;
    const int64_t* shifts;  // by tensor, bytes from where row 0 lies at first to where it is now
  };
  struct Reach {  // what a step reads for each of its rows
    Slice slice;
    int stride, above, below;
  };
  struct Step {
    int rows, block;  // output rows, and how many of them a thread takes at a time
    std::function<void(int begin, int end, const Turn&)> work;
    std::vector<Reach> reads;
    Slice out;    // tensor -1: the output image
    int scale;    // rows of `out` for each of its rows
    bool banded = false;
  };
  struct Rolling {
    int tensor;
    std::vector<int> from, to;  // by band, the rows that lie in memory
  };
  struct Stripe {
    std::vector<std::vector<int>> rows;
    std::vector<Rolling> rolling;

    int bands() const { return int(rows.size()) - 1; }
  };
  struct Group {  // steps [first, last) that run together
    int first, last;
    std::vector<Stripe> stripes;
  };

  View view(const Slice&) const;
  View stored(const Slice&) const;  // of a tensor that is not wide
  void apart(const Slice& a, const Slice& b) const;
  void need_scratch(int64_t floats);
  void add(int rows, int block, std::function<void(int, int, const Turn&)> work,
           std::vector<Reach> reads, Slice out, int scale = 1);
  static View now(const View&, int tensor, const Turn&);  // where it lies in the band that runs
  void check_order(const Group&, const Stripe&) const;
  void check_stripes(const Group&) const;
  void check_apart(const Group&) const;
  Rolling rolling(const Group&, const Stripe&, int tensor) const;
  void roll(const Rolling&, int band, int copy, int64_t* shift) const;
  using Scratch = std::vector<std::shared_ptr<float>>;  // by thread
  void run_rows(Pool&, size_t step, const Scratch&, const int64_t* unmoved);
  void run_group(Pool&, const Group&, const Scratch&);
  std::vector<double> run_stripe(const Group&, int stripe, float* scratch, bool alone) const;
  static std::vector<int> touched(const Step&);
  void combine_step(Slice x, Slice y, Slice out, CombineJob job, std::vector<float> shift);

  const Kernels& kernels_;
  int64_t floats_;
  std::shared_ptr<float> arena_;
  std::vector<Memory> tensors_;
  std::vector<Step> steps_;
  std::vector<Group> groups_;
  std::vector<double> seconds_;
  int64_t scratch_floats_ = 0;
  int input_channels_ = 0, output_channels_ = 0;
  int least_output_height_ = 0, least_output_width_ = 0;
  int resizes_ = 0;
  Image<const float> input_{};  // of the run that goes on, as are:
  Image<float> output_{};
  std::vector<Place> places_;
  std::mutex one_run_;
};

}  // namespace thinlens
