// The members of an orbit as kernels convolve them. Each permutes x or a base image: x, resampled by the base of its
// action. A convolution reads a pixel many times, so members are not interpolated as they are read.
#pragma once

#include "common/action_table.h"
#include "common/tensors.h"
#include "cuda/kernels/conv.h"

namespace equifast::cuda {

// Owns the memory that `members` points to, if there is any.
class MembersOnDevice {
 public:
  // x: (…), on the device that the members are for.
  MembersOnDevice(const Tensor& x, const ActionTable& table, Stream stream);
  MembersOnDevice(const MembersOnDevice&) = delete;
  MembersOnDevice& operator=(const MembersOnDevice&) = delete;

  // The rows of an action table whose orbit is the base images; none if all members permute x.
  std::vector<double> base_rows() const;

  std::vector<Matrix> bases;  // of the base images: source k has base k − 1
  bool has_exact = false;     // some member permutes x
  DeviceMembers members = {};

 private:
  std::optional<Tensor> memory_;
};

}  // namespace equifast::cuda
