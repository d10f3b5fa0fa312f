// The torch library `equifast`: defines every op of equifast/ops/schemas.txt. The CPU kernels of an op are registered
// in its own file, cpu/ops/<op>.cpp.
#include <torch/csrc/stable/library.h>

#include "schemas.h"

STABLE_TORCH_LIBRARY_FRAGMENT(equifast, m) {
  for (const char* schema : kSchemas) m.def(schema);
}
