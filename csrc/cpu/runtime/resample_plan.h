// From the arguments of a torch op to what the kernels that resample images read.
#pragma once

#include "common/action_table.h"
#include "common/tensors.h"
#include "cpu/kernels/kernels.h"

namespace equifast::cpu {

// Whether the pixels of a row are neighbours in memory.
bool has_dense_rows(const Tensor& t);

// The tensor itself if they are, else a contiguous copy.
Tensor with_dense_rows(const Tensor& t);

// The tensor itself if the channels of a pixel are neighbours in memory, else a copy in channels_last.
Tensor with_dense_pixels(const Tensor& t);

// The view of a tensor (B, C, H, W), which all elements share, or (E, B, C, H, W).
Images images_of(const Tensor& t);

// Uninitialized images (batch, C, H, W), for the {B, C, H, W} of others: contiguous or channels_last.
Tensor new_images(const Tensor& like, int64_t batch, const std::array<int64_t, 4>& sizes, bool channels_last = false);

// Asks for huge pages under a large new tensor. Without them, most of the time of a copy goes to faults on small pages.
void use_huge_pages(const Tensor& t);

// Whether to write a new tensor around the cache. From 16 MiB on, the caches of cores don't keep it until something
// reads it. From 32 MiB on, its pages are new: the system has just cleared them in the cache, where stores are faster.
bool pays_around_cache(const Tensor& t);

// The (B, E) weights, checked and contiguous.
std::optional<Tensor> dense_weights(const std::optional<Tensor>& weights, const Tensor& images, int64_t batch,
                                    int64_t order);

// The ids (B,) of elements, each checked to be in [0, order), contiguous.
Tensor checked_ids(const Tensor& element, int64_t order);

// out[b, k]: the sum over channels of the partial sums (B, C, size), in the order of the channels. It has the
// accumulate type of the images.
Tensor sum_over_channels(const std::vector<double>& partial, const Tensor& images, const Resample& r, int64_t size);

// Owns all memory that its `resample` points to.
class ResamplePlan {
 public:
  struct Options {
    bool adjoint = false;       // the transpose, by footprints of all bases
    bool one_each = false;      // every image has one element: then footprints are made only where they pay
    bool shared = false;        // every element reads the same image
    bool by_rows = false;       // a task may take some of an image's rows only
    bool keeps_format = false;  // channels_last images are read and written as they are
  };

  // images: (…, C, H, W), of which `sizes` are the last four.
  ResamplePlan(const Tensor& images, const char* name, const std::array<int64_t, 4>& sizes,
               const std::vector<double>& table, OptionalIntegers permutation, OptionalNumbers mixing,
               const std::string& padding_mode, Options options);
  ResamplePlan(const ResamplePlan&) = delete;
  ResamplePlan& operator=(const ResamplePlan&) = delete;

  // The images as the kernels read them, a copy if need be.
  Tensor readable(const Tensor& images) const;
  // The same for kernels that gather images in another layout themselves: then a task has all channels of an image. A
  // copy is made where that would leave threads idle.
  std::vector<Tensor> gatherable(const std::vector<Tensor>& images);
  // Uninitialized outputs of these images, for `batch` of them.
  Tensor new_outputs(const Tensor& images, int64_t batch) const;

  Resample resample;

 private:
  void list_bases();
  void build_footprints();

  ActionTable table_;
  bool channels_last_;
  std::vector<Matrix> distinct_bases_;
  std::vector<int64_t> base_of_element_;
  std::vector<Footprint> footprints_;
  std::vector<std::vector<int64_t>> starts_;
  std::vector<std::vector<uint32_t>> indices_;
  std::vector<std::vector<double>> weights_;
};

}  // namespace equifast::cpu
