// The torch library of the CUDA kernels, beside `equifast`, which chooses between them and others. An op here has the
// name and the schema that it has there; a convolution, whether it may multiply float32 as tf32 besides.
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>
#include <string_view>

#include "cuda/ops/conv_ops.h"
#include "cuda/ops/score_ops.h"
#include "cuda/ops/warp_ops.h"
#include "schemas.h"

#ifdef EQUIFAST_EMULATED
#define EQUIFAST_LIBRARY equifast_emulated
#define EQUIFAST_KEY CPU
#else
#define EQUIFAST_LIBRARY equifast_cuda
#define EQUIFAST_KEY CUDA
#endif

namespace {

std::string schema(std::string_view name) {
  for (const std::string_view line : kSchemas)
    if (line.substr(0, line.find('(')) == name) return std::string(line);
  throw std::logic_error("no schema of " + std::string(name));
}

std::string schema_with_tf32(std::string_view name) {
  std::string line = schema(name);
  return line.insert(line.rfind(") ->"), ", bool tf32");
}

}  // namespace

// STABLE_TORCH_LIBRARY_… paste their argument into names: it has to be expanded before.
#define EQUIFAST_FRAGMENT(name, m) STABLE_TORCH_LIBRARY_FRAGMENT(name, m)
#define EQUIFAST_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)

EQUIFAST_FRAGMENT(EQUIFAST_LIBRARY, m) {
  for (const char* name :
       {"orbit", "act", "orbit_average", "orbit_inner", "angle_inner", "orbit_scores", "orbit_scores_backward",
        "contrastive_loss", "contrastive_loss_backward", "orbit_losses", "orbit_losses_backward"})
    m.def(schema(name).c_str());
  for (const char* name : {"orbit_conv2d", "orbit_conv2d_backward"}) m.def(schema_with_tf32(name).c_str());
}

EQUIFAST_IMPL(EQUIFAST_LIBRARY, EQUIFAST_KEY, m) {
  using namespace equifast;
  m.impl("orbit", TORCH_BOX(&cuda::orbit));
  m.impl("act", TORCH_BOX(&cuda::act));
  m.impl("orbit_average", TORCH_BOX(&cuda::orbit_average));
  m.impl("orbit_inner", TORCH_BOX(&cuda::orbit_inner));
  m.impl("angle_inner", TORCH_BOX(&cuda::angle_inner));
  m.impl("orbit_conv2d", TORCH_BOX(&cuda::orbit_conv2d));
  m.impl("orbit_conv2d_backward", TORCH_BOX(&cuda::orbit_conv2d_backward));
  m.impl("orbit_scores", TORCH_BOX(&cuda::orbit_scores));
  m.impl("orbit_scores_backward", TORCH_BOX(&cuda::orbit_scores_backward));
  m.impl("contrastive_loss", TORCH_BOX(&cuda::contrastive_loss));
  m.impl("contrastive_loss_backward", TORCH_BOX(&cuda::contrastive_loss_backward));
  m.impl("orbit_losses", TORCH_BOX(&cuda::orbit_losses));
  m.impl("orbit_losses_backward", TORCH_BOX(&cuda::orbit_losses_backward));
}
