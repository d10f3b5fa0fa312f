// From the arguments of a torch op to what the kernels that resample images take.
#pragma once

#include "common/tensors.h"
#include "cuda/kernels/resample.h"
#include "cuda/runtime/images.h"
#include "cuda/runtime/table_on_device.h"

namespace equifast::cuda {

Layout layout_of(const Tensor& t);

// As image_sizes, for images whose channels, rows and columns kernels can count in 32 bits.
std::array<int64_t, 4> checked_sizes(const Tensor& t, const char* name);

// Uninitialized images (batch, C, H, W) of the dtype and memory format of `like`, for the {B, C, H, W} of others.
Tensor new_images_like(const Tensor& like, int64_t batch, const std::array<int64_t, 4>& sizes);

// Owns the memory of the tables that its `resample` points to.
struct ResamplePlan {
  // images: (…, C, H, W), of which `sizes` are the last four.
  ResamplePlan(const Tensor& images, const char* name, const std::array<int64_t, 4>& sizes,
               const std::vector<double>& table, const OptionalIntegers& permutation, const OptionalNumbers& mixing,
               const std::string& padding_mode, bool adjoint, Stream stream);

  // The resample, cut into tiles in which neighbouring threads follow the memory of a layout.
  Resample tiled_along(const Layout& layout) const;

  // The arguments of a kernel that writes the images `out`.
  ResampleArgs writing(const Tensor& out) const;

  Resample resample;

 private:
  TableOnDevice table_;
  std::optional<Tensor> lines_;
};

void set_weights(ResampleArgs& args, const std::optional<Tensor>& weights, const Tensor& images);

// (B, n) in the accumulate type: the sum of `partial`, (parts, B, n), over its parts.
Tensor sum_over_parts(const Tensor& partial, Stream stream);

}  // namespace equifast::cuda
