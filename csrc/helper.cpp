// The Python module _helper: facts about the native build, and the geometry of geometry.h for tests. It needs no
// tensor, since pybind11 and the LibTorch stable ABI can't share a file.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/runtime/isa.h"
#include "geometry.h"

namespace py = pybind11;

namespace {

using Row = std::array<double, 4>;

equifast::Action action_of(int code, const Row& m) { return {code, {m[0], m[1], m[2], m[3]}}; }

py::tuple factored(int code, const Row& base, bool square) {
  const equifast::Action a = equifast::factor(action_of(code, base), square);
  return py::make_tuple(a.code, Row{a.base.xx, a.base.xy, a.base.yx, a.base.yy});
}

// The flat source index of every pixel of a permuted height × width plane.
std::vector<int64_t> permuted(int code, int64_t height, int64_t width) {
  const equifast::Permutation p(code);
  if (p.transposed && height != width) throw std::invalid_argument("code: a quarter turn needs a square");
  std::vector<int64_t> out;
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j) {
      const int64_t row = p.transposed ? j : i, col = p.transposed ? i : j;
      out.push_back((p.reverse_row ? height - 1 - row : row) * width + (p.reverse_col ? width - 1 - col : col));
    }
  return out;
}

// For every pixel of a rotated plane, what it reads: (first column, near, far, first row, near, far).
std::vector<std::array<double, 6>> taps(const Row& base, int64_t height, int64_t width, bool border) {
  std::vector<std::array<double, 6>> out;
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j) {
      using equifast::sample_offset;
      const double dx = j - (width - 1) / 2.0, dy = i - (height - 1) / 2.0;
      const auto x = sample_offset(base[0], dx) + sample_offset(base[1], dy, (width - 1) / 2.0);
      const auto y = sample_offset(base[2], dx) + sample_offset(base[3], dy, (height - 1) / 2.0);
      const auto tx = equifast::bilinear_tap(x, width, border), ty = equifast::bilinear_tap(y, height, border);
      const auto weight = [](int32_t steps) { return steps / double(equifast::kOne); };
      out.push_back(
          {double(tx.first), weight(tx.near), weight(tx.far), double(ty.first), weight(ty.near), weight(ty.far)});
    }
  return out;
}

}  // namespace

PYBIND11_MODULE(_helper, m) {
  m.doc() = "Build and CPU facts of equifast's native libraries.";
  m.def(
      "isa", [] { return std::string(equifast::isa_name(equifast::best_isa())); },
      "Variant of the CPU kernels in use; RuntimeError if EQUIFAST_CPU_CAPABILITY names another.");
  m.def(
      "supported_isas",
      [] {
        std::vector<std::string> names;
        for (const auto isa : equifast::supported_isas()) names.emplace_back(equifast::isa_name(isa));
        return names;
      },
      "Built variants that this CPU can run, slowest first.");
  m.def("isas_built", [] { return py::str(EQUIFAST_ISAS).attr("split")(","); }, "Variants compiled in, slowest first.");
  m.def(
      "build_facts",
      [] {
        py::dict facts;
        facts["compiler"] = __VERSION__;
        facts["flags"] = EQUIFAST_FLAGS;
        facts["isas"] = EQUIFAST_ISAS;
        return facts;
      },
      "Compiler, flags and variants, as the compiler itself saw them.");
  m.def("factor", factored, py::arg("code"), py::arg("base"), py::arg("square"),
        "A row of an action table as kernels read it on a grid: (code, base).");
  m.def("inverse_code", equifast::inverse_code, py::arg("code"), "Code of the inverse permutation.");
  m.def("permuted", permuted, py::arg("code"), py::arg("height"), py::arg("width"),
        "Flat source index of every pixel under a permutation.");
  m.def("taps", taps, py::arg("base"), py::arg("height"), py::arg("width"), py::arg("border"),
        "(first column, near, far, first row, near, far) that every pixel of a rotation reads.");
}
