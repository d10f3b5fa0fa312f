// batch_norm_act: batch normalization by the statistics of the batch, then an activation.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <utility>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// Values of x that a task handles: they stay in the first-level cache between two readings.
constexpr int64_t kPieceValues = 1 << 13;

NormActivation activation_of(const std::string& name) {
  constexpr std::pair<const char*, NormActivation> kNames[] = {{"none", NormActivation::none},
                                                               {"relu", NormActivation::relu},
                                                               {"gelu", NormActivation::gelu},
                                                               {"gelu_tanh", NormActivation::gelu_tanh},
                                                               {"silu", NormActivation::silu}};
  for (const auto& [known, activation] : kNames)
    if (name == known) return activation;
  STD_TORCH_CHECK(false, "activation: expected none, relu, gelu, gelu_tanh or silu, got '", name, "'");
}

Tensor new_like(const Tensor& x, bool channels_last) {
  const auto sizes = image_sizes(x, "x");
  Tensor out = torch::stable::empty({sizes.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                    memory_format(channels_last));
  use_huge_pages(out);
  return out;
}

// (C,) numbers: weight, bias or a statistic, in double.
std::vector<double> numbers_of(const Tensor& t, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == x.size(1), name, ": expected (", x.size(1), ",)");
  dtype_of(t, name);
  const Tensor wide = torch::stable::contiguous(torch::stable::to(t, ScalarType::Double));
  const auto* from = static_cast<const double*>(wide.const_data_ptr());
  return {from, from + t.size(0)};
}

std::vector<double> numbers_of(const std::optional<Tensor>& t, const Tensor& x, double absent, const char* name) {
  return t ? numbers_of(*t, x, name) : std::vector<double>(x.size(1), absent);
}

// The numbers of each channel as kernels take them: in the accumulate type, rounded once.
Tensor rounded(const std::vector<double>& numbers, const Tensor& x) {
  Tensor out = empty(x, {static_cast<int64_t>(numbers.size())}, accumulate_dtype(x));
  if (accumulate_dtype(x) == ScalarType::Double)
    std::copy(numbers.begin(), numbers.end(), static_cast<double*>(out.mutable_data_ptr()));
  else std::copy(numbers.begin(), numbers.end(), static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

BatchNormArgs arguments(const Tensor& x, const std::string& activation, bool channels_last) {
  check_one_batch(x, "x");
  const auto [N, C, H, W] = image_sizes(x, "x");
  BatchNormArgs args = {};
  args.dtype = dtype_of(x, "x");
  args.activation = activation_of(activation);
  args.channels_last = channels_last;
  args.N = channels_last ? 1 : N;
  args.C = C;
  args.pixels = channels_last ? N * H * W : H * W;
  args.piece = channels_last ? std::max<int64_t>(kPieceValues / std::max<int64_t>(C, 1), 1) : kPieceValues;
  return args;
}

// Runs a kernel that leaves two numbers for each channel of each piece, and calls f(channel, first, second, pixels of
// the piece) for all of them in a fixed order, as often as asked.
class Pieces {
 public:
  Pieces(BatchNormArgs& args, void (*kernel)(const BatchNormArgs&, int64_t, int64_t))
      : args_(args), tasks_(args.N * args.pieces()), first_(tasks_ * args.C), second_(tasks_ * args.C) {
    args.first = first_.data();
    args.second = second_.data();
    if (!first_.empty()) run(kernel, args, tasks_);
  }

  template <class F>
  void each(F f) const {
    for (int64_t task = 0; task < tasks_; ++task) {
      const int64_t start = task % args_.pieces() * args_.piece, count = std::min(args_.piece, args_.pixels - start);
      for (int64_t c = 0; c < args_.C; ++c)
        f(c, first_[task * args_.C + c], second_[task * args_.C + c], static_cast<double>(count));
    }
  }

 private:
  const BatchNormArgs& args_;
  int64_t tasks_;
  std::vector<double> first_, second_;
};

// What normalizes: (x − mean)·scale + shift, with scale = weight / √(var + eps) and shift = bias. Forward and backward
// round these numbers in the same way.
class Map {
 public:
  Map(const Tensor& x, const Tensor& mean, const Tensor& var, const std::optional<Tensor>& weight,
      const std::optional<Tensor>& bias, double eps)
      : scale(numbers_of(weight, x, 1, "weight")), deviation(numbers_of(var, x, "var")) {
    for (double& d : deviation) d = std::sqrt(d + eps);
    for (size_t c = 0; c < scale.size(); ++c) scale[c] /= deviation[c];
    mean_ = rounded(numbers_of(mean, x, "mean"), x);
    scale_ = rounded(scale, x);
    shift_ = rounded(numbers_of(bias, x, 0, "bias"), x);
  }

  void set(BatchNormArgs& args) const {
    args.mean = mean_.const_data_ptr();
    args.scale = scale_.const_data_ptr();
    args.shift = shift_.const_data_ptr();
  }

  std::vector<double> scale, deviation;

 private:
  Tensor mean_, scale_, shift_;
};

// The output, and the mean and the (biased) variance of each channel in the accumulate type.
std::tuple<Tensor, Tensor, Tensor> batch_norm_act(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias,
                                                  double eps, std::string activation, bool channels_last) {
  BatchNormArgs args = arguments(x, activation, channels_last);
  const Tensor dense = torch::stable::contiguous(x, memory_format(channels_last));
  args.x = dense.const_data_ptr();
  const Pieces pieces(args, cpu_kernels().batch_norm_act_statistics);
  const auto values = static_cast<double>(args.N * args.pixels);
  std::vector<double> mean(args.C), var(args.C);
  pieces.each([&](int64_t c, double of_piece, double, double count) { mean[c] += of_piece * count; });
  for (double& m : mean) m /= values;  // without values it is NaN, as every mean in torch is
  pieces.each([&](int64_t c, double of_piece, double squares, double count) {
    var[c] += squares + count * (of_piece - mean[c]) * (of_piece - mean[c]);
  });
  for (double& v : var) v /= values;

  const Tensor mean_of = rounded(mean, x), var_of = rounded(var, x);
  const Map map(x, mean_of, var_of, weight, bias, eps);
  Tensor out = new_like(x, channels_last);
  map.set(args);
  args.out = out.mutable_data_ptr();
  if (out.numel() > 0) run(cpu_kernels().batch_norm_act, args, args.N * args.pieces());
  return {out, mean_of, var_of};
}

// The gradients of x, weight and bias.
std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                                           std::optional<Tensor> bias, Tensor mean, Tensor var,
                                                           double eps, std::string activation, bool channels_last) {
  BatchNormArgs args = arguments(x, activation, channels_last);
  check_one_batch(grad, "grad");
  STD_TORCH_CHECK(image_sizes(grad, "grad") == image_sizes(x, "x"), "grad: expected the shape of x");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad: expected the dtype of x");
  const Tensor dense = torch::stable::contiguous(x, memory_format(channels_last));
  const Tensor dense_grad = torch::stable::contiguous(grad, memory_format(channels_last));
  const Map map(x, mean, var, weight, bias, eps);
  map.set(args);
  args.x = dense.const_data_ptr();
  args.grad = dense_grad.const_data_ptr();
  const Pieces pieces(args, cpu_kernels().batch_norm_act_sums);
  std::vector<double> sum(args.C), product(args.C), level(args.C), tilt(args.C);
  pieces.each([&](int64_t c, double of_piece, double with_deviations, double) {
    sum[c] += of_piece;
    product[c] += with_deviations;
  });
  const auto values = static_cast<double>(args.N * args.pixels);
  for (int64_t c = 0; c < args.C; ++c) {
    product[c] = values > 0 ? product[c] / map.deviation[c] : 0;  // of no values, where the deviation is NaN
    level[c] = map.scale[c] * sum[c] / values;
    tilt[c] = map.scale[c] * product[c] / values / map.deviation[c];
  }
  const Tensor level_of = rounded(level, x), tilt_of = rounded(tilt, x);
  args.level = level_of.const_data_ptr();
  args.tilt = tilt_of.const_data_ptr();
  Tensor grad_x = new_like(x, channels_last);
  args.out = grad_x.mutable_data_ptr();
  if (grad_x.numel() > 0) run(cpu_kernels().batch_norm_act_backward, args, args.N * args.pieces());
  const auto like = [&](const std::optional<Tensor>& parameter, const std::vector<double>& numbers) {
    const Tensor found = rounded(numbers, x);
    return parameter ? torch::stable::to(found, parameter->scalar_type()) : found;
  };
  return {grad_x, like(weight, product), like(bias, sum)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) {
  m.impl("batch_norm_act", TORCH_BOX(&batch_norm_act));
  m.impl("batch_norm_act_backward", TORCH_BOX(&batch_norm_act_backward));
}

}  // namespace equifast::cpu
