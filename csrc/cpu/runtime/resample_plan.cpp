#include "cpu/runtime/resample_plan.h"

#include <torch/headeronly/util/Exception.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace equifast {

cpu::Dtype dtype_of(const Tensor& t, const char* name) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Double: return cpu::Dtype::float64;
    case ScalarType::Float: return cpu::Dtype::float32;
    case ScalarType::Half: return cpu::Dtype::float16;
    case ScalarType::BFloat16: return cpu::Dtype::bfloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, name, ": expected float64, float32, float16 or bfloat16");
}

Tensor with_dense_rows(const Tensor& t) {
  return t.stride(-1) == 1 || t.size(-1) <= 1 ? t : torch::stable::contiguous(t);
}

cpu::Images images_of(const Tensor& t) {
  return {t.const_data_ptr(), t.dim() == 5 ? t.stride(0) : 0, t.stride(-4), t.stride(-3), t.stride(-2)};
}

void use_huge_pages(const Tensor& t) {
#ifdef __linux__
  constexpr uintptr_t kHugePage = uintptr_t(1) << 21;
  const auto begin = reinterpret_cast<uintptr_t>(t.const_data_ptr()), end = begin + t.numel() * t.element_size();
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage, last = end / kHugePage * kHugePage;
  // An allocation of this size is mapped anew each time; that it may be refused changes nothing but the speed.
  if (last >= first + 4 * kHugePage) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)t;
#endif
}

WarpPlan::WarpPlan(cpu::Dtype dtype, std::array<int64_t, 4> sizes, const std::vector<double>& table,
                   std::vector<int64_t> permutation, std::vector<double> mixing, const std::string& padding_mode,
                   Options options)
    : permutation_(std::move(permutation)), mixing_(std::move(mixing)) {
  const auto [B, C, H, W] = sizes;
  const int64_t E = table.size() / 5;
  STD_TORCH_CHECK(E > 0 && table.size() % 5 == 0, "table: expected rows of 5 numbers, got ", table.size());
  STD_TORCH_CHECK(padding_mode == "border" || padding_mode == "zeros",
                  "padding_mode: expected 'border' or 'zeros', got '", padding_mode, "'");
  for (int64_t e = 0; e < E; ++e) {
    const double* row = &table[5 * e];
    actions_.push_back(factor({static_cast<int>(row[0]), {row[1], row[2], row[3], row[4]}}, H == W));
  }
  const int64_t block = permutation_.size() / E;
  STD_TORCH_CHECK(permutation_.size() % E == 0 && (block == 0 || C % block == 0), "permutation: ", permutation_.size(),
                  " entries do not fit ", E, " elements and ", C, " channels");
  for (const int64_t k : permutation_)
    STD_TORCH_CHECK(0 <= k && k < block, "permutation: entry ", k, " outside its block");
  STD_TORCH_CHECK(mixing_.empty() || (static_cast<int64_t>(mixing_.size()) == 4 * E && C % 2 == 0),
                  "mixing: expected 4 numbers an element and an even number of channels, got ", mixing_.size(), " and ",
                  C);
  list_bases();

  const int64_t threads = torch::stable::get_num_threads(), inexact = E - std::count(base_.begin(), base_.end(), -1);
  warp = {.dtype = dtype,
          .B = B,
          .C = C,
          .H = H,
          .W = W,
          .order = E,
          .actions = actions_.data(),
          .base = base_.data(),
          .bases = static_cast<int64_t>(distinct_.size()),
          .footprints = nullptr,
          .permutation = block ? permutation_.data() : nullptr,
          .block = block,
          .mixing = mixing_.empty() ? nullptr : mixing_.data(),
          .border = padding_mode == "border",
          .group = std::min<int64_t>(C, 4),
          .parts = 1,
          .whole = false,
          .reuse = false};
  // A group shares the positions of its pixels; where images are few and can't be cut, threads matter more.
  if (!options.by_rows && B * warp.groups() < 2 * threads) warp.group = warp.mixing ? 2 : 1;
  warp.reuse = options.shared && !block && inexact > warp.bases;
  if (options.adjoint) build_footprints();
}

void WarpPlan::list_bases() {
  for (const Action& a : actions_) {
    const auto known = std::find(distinct_.begin(), distinct_.end(), a.base);
    base_.push_back(a.exact() ? -1 : known - distinct_.begin());
    if (!a.exact() && known == distinct_.end()) distinct_.push_back(a.base);
  }
}

void WarpPlan::build_footprints() {
  const int64_t plane = warp.H * warp.W, bases = warp.bases;
  if (!bases) return;
  STD_TORCH_CHECK(plane <= INT64_C(1) << 32,
                  "backward of an interpolated warp: expected at most 2^32 pixels a plane, got ", plane);
  const int64_t width = warp.dtype == cpu::Dtype::float64 ? 1 : 2;  // weights in one double
  for (int64_t k = 0; k < bases; ++k) {
    starts_.emplace_back(plane + 1);
    indices_.emplace_back(4 * plane);
    weights_.emplace_back((4 * plane + width - 1) / width);
    footprints_.push_back({starts_[k].data(), indices_[k].data(), weights_[k].data()});
  }
  const cpu::FootprintArgs args = {warp, distinct_.data(), footprints_.data()};
  run(cpu::cpu_kernels().footprint, args, bases);
  warp.footprints = footprints_.data();
}

}  // namespace equifast
