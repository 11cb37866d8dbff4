// The operations of a program as Python sees them.
#include "ops.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "conv_op.h"
#include "errors.h"
#include "operations.h"

namespace thinlens {
namespace {

using ChannelConstants =
    nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;

void add_pointwise_array(Program& program, const std::vector<Slice>& inputs, Slice output,
                         const std::vector<PointwiseInstruction>& instructions,
                         const ChannelConstants& constants) {
  const size_t channels = size_t(program.view(output).channels);
  if (constants.shape(0) != channels)
    refuse("a step needs constants for each of " + std::to_string(channels) + " channels, not " +
           std::to_string(constants.shape(0)));
  add_pointwise(program, inputs, output, instructions,
                {constants.data(), constants.data() + constants.size()});
}

}  // namespace

void bind_operations(nanobind::class_<Program>& program) {
  using nanobind::arg;
  const auto none = nanobind::none();
  program
      .def("pack", add_pack, arg("output"), arg("first_channel") = 0, arg("image") = 0,
           "Read channels of an input image; its last row and column are repeated up to the "
           "tensor's size.")
      .def("unpack", add_unpack, arg("input"), arg("image") = 0,
           "Write a tensor to an output image.")
      .def("conv", add_conv, arg("weights"), arg("input"), arg("output"), arg("residual") = none,
           arg("slope") = Slopes(1.0f), arg("shuffle") = 1, arg("channel_group") = 0,
           arg("input_range") = 0.0f,
           "Convolve, add `residual`, apply an activation (`slope` of its negative side, one or by "
           "channel: 1 none, 0 ReLU), then shuffle pixels by a factor.\n\n"
           "The sparse kernel traverses `channel_group` input channels together; 0 selects the "
           "dense kernel, -1 Winograd's (3x3, stride 1). With an `input_range` the sparse and the "
           "dense kernel multiply 16-bit integers: inputs beyond the range are saturated and "
           "counted.")
      .def("pointwise", add_pointwise_array, arg("inputs"), arg("output"), arg("instructions"),
           arg("constants"),
           "Run instructions on every value; the last one's results are the output.\n\n"
           "An input may have size 1 where the output has more: its values are broadcast. "
           "`constants` is [channels, constants].")
      .def("reduce_channels", add_reduce_channels, arg("input"), arg("output"), arg("reduction"),
           arg("count"), arg("first") = 0, arg("step") = 1, arg("correction") = 0,
           "Reduce, for output channel c, the input's channels `c * first + j * step` of j < "
           "`count`: sum, mean, mean_square, maximum, minimum or variance, of `count - correction` "
           "values.")
      .def("reduce_space", add_reduce_space, arg("input"), arg("output"), arg("reduction"),
           arg("group") = 1, arg("correction") = 0,
           "Reduce the rows and columns of every `group` channels; each of them gets the result.")
      .def("channel_norm", add_channel_norm, arg("input"), arg("output"), arg("weight"),
           arg("bias"), arg("epsilon"),
           "Normalize each pixel's values over the channels, then scale and shift by channel.")
      .def("record_range", add_range, arg("input"),
           "Record the largest magnitude of a tensor's values; see `ranges`.")
      .def("max_pool", add_max_pool, arg("input"), arg("output"), arg("rows"), arg("columns"),
           arg("stride") = 1,
           "Take the maximum over windows of rows and columns; windows are about `stride` rows "
           "apart.")
      .def("resample", add_resample, arg("input"), arg("output"), arg("rows"), arg("columns"),
           arg("fill") = 0.0f, arg("stride") = 1,
           "Sum up rows and columns by their weights; taps are about `stride` rows apart. Where "
           "both have one tap of weight 1, an index of -1 stands for `fill`.")
      .def("resize", add_resize, arg("input"), arg("output"),
           "Resize bilinearly with half-pixel centres to the output's size.");
}

}  // namespace thinlens
