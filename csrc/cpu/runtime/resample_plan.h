// From the arguments of a torch op to what the warp kernels read.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace equifast {

using torch::stable::Tensor;

cpu::Dtype dtype_of(const Tensor& t, const char* name);

// The tensor itself where its rows are dense, else a contiguous copy.
Tensor with_dense_rows(const Tensor& t);

// (B, C, H, W), shared by all elements, or (E, B, C, H, W).
cpu::Images images_of(const Tensor& t);

// Asks for huge pages under a large new tensor: otherwise most of the time of a copy goes to faults on small ones.
void use_huge_pages(const Tensor& t);

// Owns what a Warp points to.
class WarpPlan {
 public:
  struct Options {
    bool adjoint = false;
    bool shared = false;   // every element reads the same image
    bool by_rows = false;  // a task may take some rows of an image only
  };

  // sizes: B, C, H, W.
  WarpPlan(cpu::Dtype dtype, std::array<int64_t, 4> sizes, const std::vector<double>& table,
           std::vector<int64_t> permutation, std::vector<double> mixing, const std::string& padding_mode,
           Options options);
  WarpPlan(const WarpPlan&) = delete;
  WarpPlan& operator=(const WarpPlan&) = delete;

  cpu::Warp warp;

 private:
  void list_bases();
  void build_footprints();

  std::vector<Action> actions_;
  std::vector<Matrix> distinct_;
  std::vector<int64_t> base_, permutation_;
  std::vector<double> mixing_;
  std::vector<cpu::Footprint> footprints_;
  std::vector<std::vector<int64_t>> starts_;
  std::vector<std::vector<uint32_t>> indices_;
  std::vector<std::vector<double>> weights_;
};

// Runs a kernel over its tasks on torch's own thread pool.
template <class Args>
void run(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t tasks) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

}  // namespace equifast
