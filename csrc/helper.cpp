// Facts about the native build that need no tensor. pybind11 and the LibTorch stable ABI can't share a file.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpu_isa.h"

namespace py = pybind11;

PYBIND11_MODULE(_helper, m) {
  m.doc() = "Build and CPU facts of equifast's native libraries.";
  m.def("isa", [] { return std::string(equifast::isa_name(equifast::best_isa())); },
        "Variant of the CPU kernels in use; RuntimeError if EQUIFAST_CPU_CAPABILITY names another.");
  m.def("supported_isas", [] {
        std::vector<std::string> names;
        for (const auto isa : equifast::supported_isas()) names.emplace_back(equifast::isa_name(isa));
        return names;
      },
        "Built variants that this CPU can run, slowest first.");
  m.def("isas_built", [] { return py::str(EQUIFAST_ISAS).attr("split")(","); },
        "Variants compiled in, slowest first.");
  m.def("build_facts", [] {
        py::dict facts;
        facts["compiler"] = __VERSION__;
        facts["flags"] = EQUIFAST_FLAGS;
        facts["isas"] = EQUIFAST_ISAS;
        return facts;
      },
        "Compiler, flags and variants, as the compiler itself saw them.");
}
