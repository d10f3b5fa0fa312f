#include "cpu/runtime/resample_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "cpu/runtime/run.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace equifast::cpu {
namespace {

// A footprint takes as long as spreading so many images (3×224×224 on one core). From twice as many on, the whole is
// quicker by it: 16×3×96×96 over C8 take 0.6 times as long. For the 127 footprints of C512, they take ten times.
constexpr int64_t kImagesPerFootprint = 4;

}  // namespace

bool has_dense_rows(const Tensor& t) { return t.stride(-1) == 1 || t.size(-1) <= 1; }

Tensor with_dense_rows(const Tensor& t) { return has_dense_rows(t) ? t : torch::stable::contiguous(t); }

Tensor with_dense_pixels(const Tensor& t) {
  using torch::stable::transpose;
  if (t.stride(-3) == 1) return t;
  const Tensor pixels = transpose(transpose(t, -3, -2), -2, -1);  // (…, H, W, C)
  return transpose(transpose(torch::stable::contiguous(pixels), -2, -1), -3, -2);
}

Images images_of(const Tensor& t) {
  return {t.const_data_ptr(), t.dim() == 5 ? t.stride(0) : 0, t.stride(-4), t.stride(-3), t.stride(-2), t.stride(-1)};
}

Tensor new_images(const Tensor& like, int64_t batch, const std::array<int64_t, 4>& sizes, bool channels_last) {
  Tensor out = torch::stable::empty({{batch, sizes[1], sizes[2], sizes[3]}}, like.scalar_type(), std::nullopt,
                                    like.device(), std::nullopt, memory_format(channels_last));
  use_huge_pages(out);
  return out;
}

void use_huge_pages(const Tensor& t) {
#ifdef __linux__
  constexpr uintptr_t kHugePage = uintptr_t(1) << 21;
  const auto begin = reinterpret_cast<uintptr_t>(t.const_data_ptr()), end = begin + t.numel() * t.element_size();
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage, last = end / kHugePage * kHugePage;
  // The C library maps an allocation of this size anew each time. If the kernel refuses the advice, only speed is lost.
  if (last >= first + 4 * kHugePage) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)t;
#endif
}

bool pays_around_cache(const Tensor& t) {
  const int64_t bytes = t.numel() * t.element_size();
  return INT64_C(1) << 24 <= bytes && bytes < INT64_C(1) << 25;
}

std::optional<Tensor> dense_weights(const std::optional<Tensor>& weights, const Tensor& images, int64_t batch,
                                    int64_t order) {
  if (!weights) return std::nullopt;
  check_weights(*weights, images, batch, order);
  return torch::stable::contiguous(*weights);
}

Tensor checked_ids(const Tensor& element, int64_t order) {
  Tensor ids = torch::stable::contiguous(element);
  const auto* id = static_cast<const int64_t*>(ids.const_data_ptr());
  for (int64_t b = 0; b < ids.size(0); ++b)
    STD_TORCH_CHECK(0 <= id[b] && id[b] < order, "element: expected ids in [0, ", order, "), got ", id[b], " at ", b);
  return ids;
}

Tensor sum_over_channels(const std::vector<double>& partial, const Tensor& images, const Resample& r, int64_t size) {
  Tensor out = empty(images, {r.B, size}, accumulate_dtype(images));
  const auto add = [&]<class T>(T* sums) {
    for (int64_t b = 0; b < r.B; ++b)
      for (int64_t k = 0; k < size; ++k) {
        double sum = 0;
        for (int64_t c = 0; c < r.C; ++c) sum += partial[(b * r.C + c) * size + k];
        sums[b * size + k] = static_cast<T>(sum);
      }
  };
  if (out.scalar_type() == ScalarType::Double) add(static_cast<double*>(out.mutable_data_ptr()));
  else add(static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

ResamplePlan::ResamplePlan(const Tensor& images, const char* name, const std::array<int64_t, 4>& sizes,
                           const std::vector<double>& table, OptionalIntegers permutation, OptionalNumbers mixing,
                           const std::string& padding_mode, Options options)
    : table_(sizes[1], sizes[2], sizes[3], table, std::move(permutation), std::move(mixing), padding_mode) {
  const auto [B, C, H, W] = sizes;
  list_bases();
  resample = {.dtype = dtype_of(images, name),
              .B = B,
              .C = C,
              .H = H,
              .W = W,
              .order = table_.order(),
              .actions = table_.actions.data(),
              .base = base_of_element_.data(),
              .bases = static_cast<int64_t>(distinct_bases_.size()),
              .footprints = nullptr,
              .permutation = table_.permutation_size ? table_.permutation.data() : nullptr,
              .permutation_size = table_.permutation_size,
              .mixing = table_.mixing.empty() ? nullptr : table_.mixing.data(),
              .border = table_.border,
              .interleaved = 1,
              .channel_block = std::clamp<int64_t>(C, 1, kChannelBlock),
              .row_runs = 1,
              .all_elements = false,
              .reuse_bases = false,
              .around_cache = false};
  // The channels of a block share the positions of their pixels. Where images are few and can't be cut into runs of
  // rows, it matters more that every thread has something to do.
  if (!options.by_rows && !one_task_an_image(B * resample.channel_blocks()))
    resample.channel_block = resample.mixing ? 2 : 1;
  const int64_t exact = std::count(base_of_element_.begin(), base_of_element_.end(), -1);
  const bool bases_repeat = resample.order - exact > resample.bases;
  resample.reuse_bases = options.shared && !resample.permutation && bases_repeat;
  channels_last_ = options.keeps_format && suggests_channels_last(images);
  if (channels_last_) {
    resample.interleaved = resample.channel_block = C;
    resample.reuse_bases &= C <= kChannelBlock;
  }
  if (options.adjoint && (!options.one_each || B >= kImagesPerFootprint * resample.bases)) build_footprints();
}

Tensor ResamplePlan::readable(const Tensor& images) const {
  return resample.interleaved > 1 ? with_dense_pixels(images) : with_dense_rows(images);
}

std::vector<Tensor> ResamplePlan::gatherable(const std::vector<Tensor>& images) {
  if (std::all_of(images.begin(), images.end(), has_dense_rows)) return images;
  if (one_task_an_image(resample.B)) return resample.channel_block = resample.C, images;
  std::vector<Tensor> copies;
  for (const Tensor& t : images) copies.push_back(with_dense_rows(t));
  return copies;
}

Tensor ResamplePlan::new_outputs(const Tensor& images, int64_t batch) const {
  return new_images(images, batch, {batch, resample.C, resample.H, resample.W}, channels_last_);
}

void ResamplePlan::list_bases() {
  const auto entries = [](const Matrix& m) { return std::tuple(m.xx, m.xy, m.yx, m.yy); };
  const auto before = [&](const Matrix& a, const Matrix& b) { return entries(a) < entries(b); };
  std::map<Matrix, int64_t, decltype(before)> known(before);
  base_of_element_.assign(table_.actions.size(), -1);
  for (size_t e = 0; e < table_.actions.size(); ++e) {
    const Action& action = table_.actions[e];
    if (action.exact()) continue;
    const auto [entry, is_new] = known.try_emplace(action.base, distinct_bases_.size());
    if (is_new) distinct_bases_.push_back(action.base);
    base_of_element_[e] = entry->second;
  }
}

void ResamplePlan::build_footprints() {
  const int64_t plane = resample.H * resample.W, bases = resample.bases;
  if (!bases) return;
  STD_TORCH_CHECK(plane <= INT64_C(1) << 32,
                  "backward of an interpolating resample: expected at most 2^32 pixels a plane, got ", plane);
  const int64_t weights_per_double = resample.dtype == Dtype::float64 ? 1 : 2;
  for (int64_t k = 0; k < bases; ++k) {
    starts_.emplace_back(plane + 1);
    indices_.emplace_back(4 * plane);
    weights_.emplace_back((4 * plane + weights_per_double - 1) / weights_per_double);
    footprints_.push_back({starts_[k].data(), indices_[k].data(), weights_[k].data()});
  }
  const FootprintArgs args = {resample, distinct_bases_.data(), footprints_.data()};
  run(cpu_kernels().footprint, args, bases);
  resample.footprints = footprints_.data();
}

}  // namespace equifast::cpu
