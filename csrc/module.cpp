// The extension module thinlens.engine._native: its types as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "axis_table.h"
#include "dispatch.h"
#include "errors.h"
#include "machine_limits.h"
#include "ops.h"
#include "pointwise_program.h"
#include "sparse_weights.h"
#include "stream_plan.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace thinlens;

namespace {

template <class T>
using Values = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Input = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu>;  // any strides
using Output = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;

constexpr LineBuffer kWhole{0, 1, 0};

template <class T>
std::vector<T> copy(const Values<T>& values) {
  return {values.data(), values.data() + values.size()};
}

std::vector<std::string> available_names(const std::string& storage) {
  std::vector<std::string> names;
  for (const Kernels* kernels : available_kernels(storage)) names.push_back(kernels->name);
  return names;
}

// An image of a batch.
template <class Float, class Batch>
Image<Float> image_of(const Batch& batch, size_t index) {
  for (size_t d = 0; d < 4; ++d)
    if (batch.shape(d) > INT32_MAX) refuse("an image is too large");
  return {batch.data() + int64_t(index) * batch.stride(0),
          int(batch.shape(1)),
          int(batch.shape(2)),
          int(batch.shape(3)),
          batch.stride(1),
          batch.stride(2),
          batch.stride(3)};
}

// Run a program on a batch, image by image.
void run(Program& program, ThreadPool& pool, const Input& input, const Output& output,
         std::vector<Placement> placements) {
  if (input.shape(0) != output.shape(0))
    refuse("input and output differ in number: " + std::to_string(input.shape(0)) + " and " +
           std::to_string(output.shape(0)));
  RunArguments arguments{{}, {}, std::move(placements)};
  for (size_t b = 0; b < input.shape(0); ++b) {
    arguments.inputs = {image_of<const float>(input, b)};
    arguments.outputs = {image_of<float>(output, b)};
    const nb::gil_scoped_release release;
    program.run(pool, arguments);
  }
}

// Run some steps of a program on one image each of several inputs and outputs.
void run_steps(Program& program, ThreadPool& pool, const std::vector<Input>& inputs,
               const std::vector<Output>& outputs, std::vector<Placement> placements, int first,
               int last) {
  RunArguments arguments{{}, {}, std::move(placements)};
  for (const Input& input : inputs) {
    if (input.shape(0) != 1) refuse("an input of some steps is one image");
    arguments.inputs.push_back(image_of<const float>(input, 0));
  }
  for (const Output& output : outputs) {
    if (output.shape(0) != 1) refuse("an output of some steps is one image");
    arguments.outputs.push_back(image_of<float>(output, 0));
  }
  const nb::gil_scoped_release release;
  program.run(pool, arguments, first, last);
}

// Run row blocks of a program on one image, whose output's rows from `output_top` on are given.
void run_blocks(Program& program, ThreadPool& pool, const Input& input, const Output& output,
                int first, int last, int output_top) {
  if (input.shape(0) != 1 || output.shape(0) != 1) refuse("row blocks are of one image");
  const RunArguments arguments{{image_of<const float>(input, 0)}, {image_of<float>(output, 0)}, {}};
  const nb::gil_scoped_release release;
  program.run_blocks(pool, arguments, first, last, output_top);
}

void bind_descriptions(nb::module_& m) {
  nb::class_<Slice>(m, "Slice", "`channels` channels of a tensor, from `first` on.")
      .def(nb::init<int, int, int>(), "tensor"_a, "first"_a, "channels"_a)
      .def_ro("tensor", &Slice::tensor)
      .def_ro("first", &Slice::first)
      .def_ro("channels", &Slice::channels);
  nb::class_<Shape>(m, "Shape",
                    "A tensor's sizes and how its rows are stored: `row_vectors` vectors per row, "
                    "`halo` vectors and rows of padding on every side, float32 values with "
                    "`fp32_storage` (only for a network's output).")
      .def(nb::init<int, int, int, int, int, bool>(), "channels"_a, "height"_a, "width"_a,
           "row_vectors"_a, "halo"_a = 0, "fp32_storage"_a = false)
      .def_ro("channels", &Shape::channels)
      .def_ro("height", &Shape::height)
      .def_ro("width", &Shape::width)
      .def_ro("row_vectors", &Shape::row_vectors)
      .def_ro("halo", &Shape::halo)
      .def_ro("fp32_storage", &Shape::fp32_storage);
  nb::class_<LineBuffer>(m, "LineBuffer",
                         "A tensor of which only `rows` rows (the halo's included) are in memory "
                         "at a time, with a copy for each strip; 0 rows: the whole tensor. Row y "
                         "lies where row `y - wrap` did, and rows from `wrap` on repeat the first "
                         "ones; 0: rows that are still needed are moved.")
      .def(nb::init<int, int, int>(), "rows"_a = kWhole.rows, "copies"_a = kWhole.copies,
           "wrap"_a = kWhole.wrap)
      .def_ro("rows", &LineBuffer::rows)
      .def_ro("copies", &LineBuffer::copies)
      .def_ro("wrap", &LineBuffer::wrap);
  nb::class_<ConvShape>(m, "ConvShape",
                        "Sizes of a convolution, as torch names them: vertical, then horizontal. "
                        "`padding` is above and left; the output's size says what is below and "
                        "right.")
      .def(nb::init<int, int, int, int, Axes, Axes, Axes, int>(), "in_channels"_a, "out_channels"_a,
           "kernel_height"_a, "kernel_width"_a, "padding"_a = Axes{0, 0}, "stride"_a = Axes{1, 1},
           "dilation"_a = Axes{1, 1}, "groups"_a = 1)
      .def_ro("in_channels", &ConvShape::in_channels)
      .def_ro("out_channels", &ConvShape::out_channels)
      .def_ro("kernel_height", &ConvShape::kernel_height)
      .def_ro("kernel_width", &ConvShape::kernel_width)
      .def_ro("padding", &ConvShape::padding)
      .def_ro("stride", &ConvShape::stride)
      .def_ro("dilation", &ConvShape::dilation)
      .def_ro("groups", &ConvShape::groups);
  nb::class_<AxisPlacement>(
      m, "AxisPlacement",
      "A tile along one axis of a resize of a larger image: its first output "
      "sample of the image's `out_size`, its first input sample of `in_size`.")
      .def(nb::init<int, int, int, int>(), "out_first"_a, "out_size"_a, "in_first"_a, "in_size"_a)
      .def_ro("out_first", &AxisPlacement::out_first)
      .def_ro("out_size", &AxisPlacement::out_size)
      .def_ro("in_first", &AxisPlacement::in_first)
      .def_ro("in_size", &AxisPlacement::in_size);
  nb::class_<Placement>(m, "Placement", "A tile in a resize of a larger image.")
      .def(nb::init<AxisPlacement, AxisPlacement>(), "rows"_a, "columns"_a)
      .def_ro("rows", &Placement::rows)
      .def_ro("columns", &Placement::columns);
  nb::class_<PointwiseInstruction>(
      m, "PointwiseInstruction",
      "An operation on single values. Operands are numbers: first the inputs, then the results of "
      "the instructions so far; -1 - k is constant k.")
      .def(nb::init<const std::string&, std::vector<int>, std::vector<int>>(), "operation"_a,
           "operands"_a, "constants"_a = std::vector<int>());
  nb::class_<MachineLimits>(m, "MachineLimits", "Peak rates of the machine, per second.")
      .def_ro("flops", &MachineLimits::flops, "Floating-point operations in registers.")
      .def_ro("bytes", &MachineLimits::bytes, "Bytes read and written in memory.");
}

void bind_tables(nb::module_& m) {
  nb::class_<Taps>(m, "Taps",
                   "By output row or column, the rows or columns of the input that it sums up, and "
                   "their weights: `taps` of each; index -1 is none.")
      .def(
          "__init__",
          [](Taps* self, const Values<int32_t>& indices, const Values<float>& weights, int taps) {
            new (self) Taps(copy(indices), copy(weights), taps);
          },
          "indices"_a, "weights"_a, "taps"_a);
  nb::class_<Windows>(m, "Windows",
                      "By output row or column, where its window of the input begins and ends.")
      .def(
          "__init__",
          [](Windows* self, const Values<int32_t>& begins, const Values<int32_t>& ends) {
            new (self) Windows(copy(begins), copy(ends));
          },
          "begins"_a, "ends"_a);
}

void bind_weights(nb::module_& m) {
  nb::class_<SparseWeights>(
      m, "SparseWeights",
      "Weights in compressed sparse rows, one row per output channel. An "
      "index points into [kernel_height, kernel_width, in_channels / groups].")
      .def(
          "__init__",
          [](SparseWeights* self, const ConvShape& shape, const Values<int32_t>& starts,
             const Values<int32_t>& indices, const Values<float>& values,
             const Values<float>& bias) {
            new (self) SparseWeights(shape, copy(starts), copy(indices), copy(values), copy(bias));
          },
          "shape"_a, "starts"_a, "indices"_a, "values"_a, "bias"_a)
      .def_prop_ro("nonzeros", [](const SparseWeights& w) { return w.values.size(); });
}

void bind_kernels(nb::module_& m) {
  nb::class_<Kernels>(m, "Kernels", "The kernels of one set of instructions.")
      .def_ro("name", &Kernels::name)
      .def_ro("lanes", &Kernels::lanes, "Values per vector.")
      .def_ro("value_bytes", &Kernels::value_bytes, "Bytes per stored value.")
      .def("floats", &Program::floats, "shape"_a, "line_buffer"_a = kWhole,
           "Return the size of a tensor in units of 4 bytes, whatever its storage.");
  m.def("available_kernels", &available_names, "storage"_a = "fp32",
        "List the kernels that this CPU supports, the slowest first, by the storage of their "
        "activations: fp32 or bf16.");
  m.def("kernels", &kernels_by_name, "name"_a, nb::rv_policy::reference,
        "Return the kernels of that name.");
  nb::class_<ThreadPool>(m, "ThreadPool", "Threads that run programs.")
      .def(nb::init<int>(), "threads"_a)
      .def_prop_ro("threads", &ThreadPool::size);
  m.def("measure_limits", &measure_limits, "kernels"_a, "pool"_a,
        nb::call_guard<nb::gil_scoped_release>(),
        "Measure the machine's peak rates with the pool's threads; takes about half a second.");
}

void bind_stream_plan(nb::module_& m) {
  nb::class_<StreamRead>(m, "StreamRead",
                         "An input of a node: the node that computes it (-1: none of them), its "
                         "buffer, and the rows that one computed row reads, as `Footprint`.")
      .def(nb::init<int, int, int, int, int, int>(), "node"_a, "buffer"_a, "stride"_a = 1,
           "above"_a = 0, "below"_a = 0, "divisor"_a = 1);
  nb::class_<StreamNode>(m, "StreamNode",
                         "An operation: `rows` before its pixel shuffle by `upscale`, computed "
                         "`row_step` at a time into a buffer.")
      .def(nb::init<int, int, int, int, bool, bool, std::vector<StreamRead>>(), "rows"_a,
           "upscale"_a, "row_step"_a, "buffer"_a, "streams"_a, "is_step"_a, "reads"_a);
  nb::class_<StreamBuffer>(m, "StreamBuffer", "A block of memory that nodes write and read.")
      .def(nb::init<int, int, int64_t, bool>(), "height"_a, "halo"_a, "row_bytes"_a = 0,
           "is_output"_a = false);
  nb::class_<StreamLimits>(
      m, "StreamLimits",
      "Bytes of a thread's line buffers, the fewest rows of a row block and of "
      "a strip, and the most row blocks of a strip.")
      .def(nb::init<int64_t, int, int, int>(), "cache_bytes"_a, "block_rows"_a, "strip_rows"_a,
           "blocks"_a);
  nb::class_<StreamGroup>(m, "StreamGroup", "Consecutive nodes that stream together.")
      .def_ro("first", &StreamGroup::first)
      .def_ro("count", &StreamGroup::count)
      .def_ro("strips", &StreamGroup::strips,
              "By strip and row block, the rows that each node has reached; first where it begins.")
      .def_prop_ro(
          "line_buffers",
          [](const StreamGroup& group) {
            std::vector<std::array<int, 2>> rows;
            for (const auto& lines : group.line_buffers) rows.push_back({lines.buffer, lines.rows});
            return rows;
          },
          "The buffers that only these nodes use, and the rows of each in memory.");
  nb::class_<StreamPlan>(m, "StreamPlan", "A network's operations, in the order in which they run.")
      .def(nb::init<std::vector<StreamNode>, std::vector<StreamBuffer>>(), "nodes"_a, "buffers"_a)
      .def("groups", &StreamPlan::groups, "limits"_a, "threads"_a,
           "Cut the nodes into groups, each as long as its line buffers fit into the cache; nodes "
           "that run alone are in none.")
      .def("buffer_rows", &StreamPlan::buffer_rows, "strip"_a,
           "Return the rows, the halo's included, that a strip of all nodes needs of each buffer.");
}

void bind_program(nb::module_& m) {
  nb::class_<Program> program(m, "Program",
                              "Operations on tensors that share one arena. Every method validates "
                              "its arguments; a ValueError describes what does not fit.");
  program.def(nb::init<const Kernels&, int64_t>(), "kernels"_a, "arena_floats"_a)
      .def("tensor", &Program::tensor, "offset"_a, "shape"_a, "line_buffer"_a = kWhole,
           "Place a tensor in the arena, `offset` floats from its beginning; return its number.");
  bind_operations(program);
  program
      .def("stream", &Program::stream, "first_step"_a, "strips"_a,
           "Fuse the steps from `first_step` on, so that they run strip by strip (one thread each) "
           "and row block by row block: step i begins at row strip[0][i] and has reached row "
           "strip[b][i] after row block b.")
      .def("run", &run, "pool"_a, "input"_a, "output"_a, "placements"_a = std::vector<Placement>(),
           "Run on a batch [B, C, H, W]; `placements` are those of the resize steps, in order "
           "(none: they resize whole images).")
      .def("run_steps", &run_steps, "pool"_a, "inputs"_a, "outputs"_a, "placements"_a, "first"_a,
           "last"_a,
           "Run the steps from `first` up to `last`, which read and write images [1, C, H, W] with "
           "any strides; what earlier steps have written is still there.")
      .def("run_blocks", &run_blocks, "pool"_a, "input"_a, "output"_a, "first"_a, "last"_a,
           "output_top"_a,
           "Run the row blocks from `first` up to `last` of a program that is one fused group of "
           "one strip, on one image, and in order; `output` begins at row `output_top`.")
      .def("release", &Program::release, "Return the arena's memory until the next run.")
      .def("seconds", &Program::seconds, "Return the seconds of each step of the last run.")
      .def("saturated", &Program::saturated,
           "Count the inputs of int16 convolutions that were beyond their range, in all runs.")
      .def("ranges", &Program::ranges,
           "Return the largest magnitudes, in all runs, of the tensors whose range is recorded.");
}

}  // namespace

NB_MODULE(_native, m) {
  bind_descriptions(m);
  bind_tables(m);
  bind_weights(m);
  bind_kernels(m);
  bind_stream_plan(m);
  bind_program(m);
}
