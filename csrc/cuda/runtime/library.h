// Registers ops in the torch library of the CUDA kernels, `equifast_cuda`. It stands beside the library `equifast`,
// whose ops choose between these kernels and others. An op has the name and the schema here that it has there; a
// convolution also takes whether it may multiply float32 as tf32.
#pragma once

#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>
#include <string_view>

#include "schemas.h"

#ifdef EQUIFAST_EMULATED
#define EQUIFAST_LIBRARY equifast_emulated
#define EQUIFAST_KEY CPU
#else
#define EQUIFAST_LIBRARY equifast_cuda
#define EQUIFAST_KEY CUDA
#endif

namespace equifast::cuda {

struct Op {
  const char* name;
  void (*boxed)(StableIValue*, uint64_t, uint64_t);
  bool takes_tf32 = false;
};

inline std::string schema_of(const Op& op) {
  for (const std::string_view line : kSchemas) {
    if (line.substr(0, line.find('(')) != op.name) continue;
    std::string schema(line);
    if (op.takes_tf32) schema.insert(schema.rfind(") ->"), ", bool tf32");
    return schema;
  }
  throw std::logic_error("no schema of " + std::string(op.name));
}

}  // namespace equifast::cuda

// STABLE_TORCH_LIBRARY_… paste their arguments into names, so these have to be expanded before.
#define EQUIFAST_FRAGMENT(library, m) STABLE_TORCH_LIBRARY_FRAGMENT(library, m)
#define EQUIFAST_IMPL(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)

// Defines and registers the ops of a file: EQUIFAST_REGISTER({"name", TORCH_BOX(&function)}, …).
#define EQUIFAST_REGISTER(...)                              \
  static const Op kOps[] = {__VA_ARGS__};                   \
  EQUIFAST_FRAGMENT(EQUIFAST_LIBRARY, m) {                  \
    for (const Op& op : kOps) m.def(schema_of(op).c_str()); \
  }                                                         \
  EQUIFAST_IMPL(EQUIFAST_LIBRARY, EQUIFAST_KEY, m) {        \
    for (const Op& op : kOps) m.impl(op.name, op.boxed);    \
  }
