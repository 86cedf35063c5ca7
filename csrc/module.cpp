// SPDX-License-Identifier: MIT
// `advkern._C`: importing it registers the CPU kernels; the module itself only tells how it was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "common/isa.h"

namespace {

std::vector<std::string> isas() {  // that this machine can run, best first
  std::vector<std::string> names;
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) names.emplace_back(advkern::isa_name(advkern::Isa(isa)));
  return names;
}

void set_isa(const std::string& name) {
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa)
    if (name == advkern::isa_name(advkern::Isa(isa))) return advkern::current_isa().store(advkern::Isa(isa));
  throw std::invalid_argument("isa must be one of advkern._C.isas(), got '" + name + "'");
}

pybind11::dict build_facts() {
  pybind11::dict facts;
  facts["compiler"] = __VERSION__;
  facts["cxx_standard"] = long(__cplusplus);
  facts["stable_abi"] =
      std::to_string((TORCH_TARGET_VERSION >> 56) & 0xff) + "." + std::to_string((TORCH_TARGET_VERSION >> 48) & 0xff);
  facts["isa"] = advkern::isa_name(advkern::current_isa());
  facts["isas"] = isas();
  return facts;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled CPU kernels of advkern, on LibTorch's stable ABI.";
  m.def("build_facts", &build_facts, "How this library was built, as a dict.");
  m.def("isas", &isas, "Instruction sets this machine can run, best first.");
  m.def("isa", [] { return std::string(advkern::isa_name(advkern::current_isa())); }, "The set in use.");
  m.def("set_isa", &set_isa, pybind11::arg("name"), "Choose the set: for tests of the others.");
}
