// What does Python see of the engine?
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "dispatch.h"
#include "limits.h"
#include "program.h"

namespace nb = nanobind;
using namespace thinlens;

namespace {

template <class T>
using Values = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Input = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Triple = std::vector<int>;

template <class T>
std::vector<T> copied(const Values<T>& values) {
  return {values.data(), values.data() + values.size()};
}

Slice slice(const Triple& t) {
  if (t.size() != 3) throw std::invalid_argument("a slice is (tensor, first, channels)");
  return {t[0], t[1], t[2]};
}

std::vector<std::string> names(const std::vector<const Kernels*>& all) {
  std::vector<std::string> found;
  for (const Kernels* kernels : all) found.push_back(kernels->name);
  return found;
}

std::vector<Place> places(const std::vector<std::vector<int>>& numbers) {
  std::vector<Place> all;
  for (const auto& n : numbers) {
    if (n.size() != 8) throw std::invalid_argument("a place has eight numbers");
    all.push_back({Along{n[0], n[1], n[2], n[3]}, Along{n[4], n[5], n[6], n[7]}});
  }
  return all;
}

void run(Program& program, Pool& pool, const Input& in, const Output& out,
         const std::vector<std::vector<int>>& numbers) {
  for (size_t d = 0; d < 4; ++d)
    if (in.shape(d) > INT32_MAX || out.shape(d) > INT32_MAX)
      throw std::invalid_argument("an image is too large");
  if (in.shape(0) != out.shape(0)) throw std::invalid_argument("input and output differ in number");
  const std::vector<Place> where = places(numbers);
  const nb::gil_scoped_release release;
  Image<const float> from{in.data(), int(in.shape(1)), int(in.shape(2)), int(in.shape(3))};
  Image<float> to{out.data(), int(out.shape(1)), int(out.shape(2)), int(out.shape(3))};
  const int64_t step_from = int64_t(from.channels) * from.height * from.width;
  const int64_t step_to = int64_t(to.channels) * to.height * to.width;
  for (size_t b = 0; b < in.shape(0); ++b, from.data += step_from, to.data += step_to)
    program.run(pool, from, to, where);
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("offered", [] { return names(offered()); });
  m.def("offered_bf16", [] { return names(offered_bf16()); });
  nb::class_<Kernels>(m, "Kernels")
      .def_ro("name", &Kernels::name)
      .def_ro("lanes", &Kernels::lanes)
      .def_ro("bytes", &Kernels::bytes)
      .def(
          "floats",
          [](const Kernels& k, int channels, int height, int columns, int halo, bool wide, int rows,
             int copies) {
            return Program::size(k, {channels, height, columns, halo}, wide, rows, copies);
          },
          nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("wide") = false, nb::arg("rows") = 0,
          nb::arg("copies") = 1);
  m.def("kernels", &find, nb::rv_policy::reference);
  m.def("limits", [](const Kernels& kernels, Pool& pool) {
    const nb::gil_scoped_release release;
    const Limits found = measure(kernels, pool);
    return std::vector<double>{found.flops, found.bytes};
  });
  nb::class_<Pool>(m, "Pool").def(nb::init<int>()).def_prop_ro("threads", &Pool::size);
  nb::class_<Table>(m, "Table")
      .def("__init__",
           [](Table* self, const Triple& shape, const Values<int32_t>& starts,
              const Values<int32_t>& positions, const Values<float>& values,
              const Values<float>& bias) {
             if (shape.size() != 7) throw std::invalid_argument("a shape has seven numbers");
             new (self) Table(
                 {shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6]},
                 copied(starts), copied(positions), copied(values), copied(bias));
           })
      .def_prop_ro("entries", [](const Table& t) { return t.values.size(); });
  nb::class_<Program>(m, "Program")
      .def(nb::init<const Kernels&, int64_t>(), nb::keep_alive<1, 2>())
      .def(
          "tensor",
          [](Program& p, int64_t offset, int channels, int height, int width, int columns, int halo,
             bool wide, int rows, int copies) {
            return p.tensor(offset, {channels, height, columns, halo}, width, wide, rows, copies);
          },
          nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("wide") = false,
          nb::arg("rows") = 0, nb::arg("copies") = 1)
      .def("pack", [](Program& p, const Triple& out, int first) { p.pack(slice(out), first); })
      .def("release", &Program::release)
      .def("unpack", [](Program& p, const Triple& in) { p.unpack(slice(in)); })
      .def("conv",
           [](Program& p, std::shared_ptr<Table> table, const Triple& in, const Triple& out,
              const Triple& residual, float slope, int shuffle, int group) {
             p.conv(table, slice(in), slice(out), slice(residual), slope, shuffle, group);
           })
      .def("combine",
           [](Program& p, const Triple& x, const Triple& y, const Triple& out, float alpha,
              float beta, std::vector<float> shift, float slope) {
             p.combine(slice(x), slice(y), slice(out), alpha, beta, shift, slope);
           })
      .def("gate", [](Program& p, const Triple& x, const Triple& y,
                      const Triple& out) { p.gate(slice(x), slice(y), slice(out)); })
      .def("pool", [](Program& p, const Triple& in, const Triple& out, int size,
                      int stride) { p.pool(slice(in), slice(out), size, stride); })
      .def("resize", [](Program& p, const Triple& in,
                        const Triple& out) { p.resize(slice(in), slice(out)); })
      .def("bands", &Program::bands)
      .def("run", &run, nb::arg("pool"), nb::arg("input"), nb::arg("output"),
           nb::arg("places") = std::vector<std::vector<int>>())
      .def("seconds", &Program::seconds);
}
