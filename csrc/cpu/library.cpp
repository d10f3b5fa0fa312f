// The torch library: every schema (from equifast/ops/schemas.txt, the one list), and the CPU kernels behind them.
#include <torch/csrc/stable/library.h>

#include "cpu/ops/conv_ops.h"
#include "cpu/ops/score_ops.h"
#include "cpu/ops/warp_ops.h"
#include "schemas.h"

STABLE_TORCH_LIBRARY_FRAGMENT(equifast, m) {
  for (const char* schema : kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) {
  m.impl("orbit", TORCH_BOX(&equifast::orbit));
  m.impl("act", TORCH_BOX(&equifast::act));
  m.impl("orbit_average", TORCH_BOX(&equifast::orbit_average));
  m.impl("orbit_inner", TORCH_BOX(&equifast::orbit_inner));
  m.impl("orbit_conv2d_direct", TORCH_BOX(&equifast::orbit_conv2d_direct));
  m.impl("orbit_conv2d_direct_backward", TORCH_BOX(&equifast::orbit_conv2d_direct_backward));
  m.impl("orbit_scores", TORCH_BOX(&equifast::orbit_scores));
  m.impl("orbit_scores_backward", TORCH_BOX(&equifast::orbit_scores_backward));
  m.impl("contrastive_loss", TORCH_BOX(&equifast::contrastive_loss));
  m.impl("contrastive_loss_backward", TORCH_BOX(&equifast::contrastive_loss_backward));
}
