// Makes the table that kernels take from the one that host code has checked.
#pragma once

#include "common/action_table.h"
#include "common/tensors.h"
#include "cuda/runtime/device_table.h"

namespace equifast::cuda {

// Owns the memory that `table` points to, if there is any.
class TableOnDevice {
 public:
  // images: (…, C, H, W), on the device that the table is for.
  TableOnDevice(const Tensor& images, const std::vector<double>& table, const OptionalIntegers& permutation,
                const OptionalNumbers& mixing, const std::string& padding_mode, Stream stream);
  TableOnDevice(const TableOnDevice&) = delete;
  TableOnDevice& operator=(const TableOnDevice&) = delete;

  ActionTable host;
  DeviceTable table = {};

 private:
  void copy_to_argument();
  void copy_to_memory(const Tensor& images, Stream stream);

  std::optional<Tensor> memory_;
};

}  // namespace equifast::cuda
