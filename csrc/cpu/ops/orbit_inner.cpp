// orbit_inner: the inner product of each element applied to u with v.
#include <torch/csrc/stable/library.h>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// out[b, e]: the sum over channels of the partial sums (B, C, E), in the order of the channels.
template <class T>
void sum_channels(const std::vector<double>& partial, const Resample& r, T* out) {
  for (int64_t b = 0; b < r.B; ++b)
    for (int64_t e = 0; e < r.order; ++e) {
      double sum = 0;
      for (int64_t c = 0; c < r.C; ++c) sum += partial[(b * r.C + c) * r.order + e];
      out[b * r.order + e] = static_cast<T>(sum);
    }
}

Tensor orbit_inner(Tensor u, Tensor v, std::vector<double> table, std::vector<int64_t> permutation,
                   std::vector<double> mixing, std::string padding_mode) {
  const auto sizes = check_operands(u, v);
  const ResamplePlan plan(u, "u", sizes, table, permutation, mixing, padding_mode, {.shared = u.dim() == 4});
  const Resample& r = plan.resample;
  check_elements(u, r.order, "u");
  check_elements(v, r.order, "v");
  const ScalarType sum_dtype = accumulate_dtype(u);
  if (u.numel() == 0) return zeros(u, {r.B, r.order}, sum_dtype);
  const Tensor dense_u = with_dense_rows(u), dense_v = with_dense_rows(v);
  std::vector<double> partial(r.B * r.C * r.order);
  const ResampleArgs args = {.resample = r,
                             .in = images_of(dense_u),
                             .second = images_of(dense_v),
                             .weights = nullptr,
                             .element = nullptr,
                             .out = partial.data()};
  run(cpu_kernels().orbit_inner, args, r.B * r.channel_blocks());
  Tensor out = empty(u, {r.B, r.order}, sum_dtype);
  if (sum_dtype == ScalarType::Double) sum_channels(partial, r, static_cast<double*>(out.mutable_data_ptr()));
  else sum_channels(partial, r, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("orbit_inner", TORCH_BOX(&orbit_inner)); }

}  // namespace equifast::cpu
