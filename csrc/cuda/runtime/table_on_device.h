// A table of kernels from the arguments of a torch op.
#pragma once

#include "cuda/runtime/device_table.h"
#include "cuda/runtime/images.h"

namespace equifast::cuda {

// While it lives, so does the memory that the table points to.
class TableOf {
 public:
  // images: (…, C, H, W).
  TableOf(const Tensor& images, const std::vector<double>& table, const std::vector<int64_t>& permutation,
          const std::vector<double>& mixing, const std::string& padding_mode, Stream stream);
  TableOf(const TableOf&) = delete;
  TableOf& operator=(const TableOf&) = delete;

  Table value = {};
  std::vector<Action> actions;  // the same, on the host

 private:
  std::optional<Tensor> memory_;
};

}  // namespace equifast::cuda
