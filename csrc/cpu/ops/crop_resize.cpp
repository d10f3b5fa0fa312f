// crop_resize: an antialiased bilinear resize of a crop, and its adjoint. Both are R · x · Cᵀ for every plane x: R has
// the weights of the rows and C those of the columns, and the adjoint has both transposed.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// A band matrix and the memory that it lies in.
struct Weights {
  int64_t columns = 0;
  std::vector<int64_t> first, start = {0};
  std::vector<double> weight;
  std::vector<float> rounded;

  BandMatrix matrix(Dtype dtype) {
    rounded.assign(weight.begin(), weight.end());
    const void* values = rounded.data();
    if (dtype == Dtype::float64) values = weight.data();
    return {static_cast<int64_t>(first.size()), columns, first.data(), start.data(), values};
  }
};

// A resize of `pixels` pixels in a row to `size` of them. An output weighs each pixel by its distance from the output's
// centre: by 1 − distance / support where that is positive, and the support is the width of an output, or of a pixel
// if that is wider. All of these are integers in units of 1 / (2 · size) pixels. So the weights, divided by their sum,
// are rounded once, and those of a mirrored output are mirrored.
Weights resize(int64_t pixels, int64_t size) {
  // Sums of these integers are below 8 · pixels · size.
  STD_TORCH_CHECK(pixels <= INT64_MAX / 8 / size, "crop_resize: too many pixels: ", pixels, " of which ", size);
  Weights w;
  w.columns = pixels;
  w.weight.reserve(2 * (pixels + size));  // about as many as there will be, so that memory is short at once or never
  const int64_t support = 2 * std::max(pixels, size);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t centre = (2 * i + 1) * pixels, left = centre - support;
    int64_t sum = 0, j = left < size ? 0 : (left - size) / (2 * size) + 1;
    w.first.push_back(j);
    for (; j < pixels; ++j) {
      const int64_t weight = support - std::abs((2 * j + 1) * size - centre);
      if (weight <= 0) break;
      w.weight.push_back(static_cast<double>(weight));
      sum += weight;
    }
    for (size_t k = w.start.back(); k < w.weight.size(); ++k) w.weight[k] /= static_cast<double>(sum);
    w.start.push_back(static_cast<int64_t>(w.weight.size()));
  }
  return w;
}

// The transpose of a matrix w, among rows of zeros: row r of wᵀ is row begin + r of `rows`.
Weights transposed(const Weights& w, int64_t begin, int64_t rows) {
  const int64_t columns = static_cast<int64_t>(w.first.size());
  Weights t;
  t.columns = columns;
  int64_t i0 = 0;  // the first of the rows of w that have not yet ended
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t j = row - begin;
    while (i0 < columns && w.first[i0] + (w.start[i0 + 1] - w.start[i0]) <= j) ++i0;
    t.first.push_back(std::min(i0, columns - 1));
    for (int64_t i = i0; i < columns && w.first[i] <= j; ++i) t.weight.push_back(w.weight[w.start[i] + j - w.first[i]]);
    t.start.push_back(static_cast<int64_t>(t.weight.size()));
  }
  return t;
}

// The rows of the output that a task makes if the horizontal pass comes first: so many that they are sums of
// kResizeRows rows of the input, as far as possible. Two of these are shared with the next task.
int64_t rows_of_task(const BandMatrix& rows) {
  int64_t sums = 0;
  for (int64_t i = 0; i < rows.rows; ++i) sums += rows.count(i) > 0;
  return std::max<int64_t>((kResizeRows - 2) * sums / rows.columns, 1);
}

Tensor new_planes(const Tensor& x, const char* name, int64_t height, int64_t width) {
  dtype_of(x, name);
  return new_images(x, x.size(0), {x.size(0), x.size(1), height, width});
}

// Runs the kernel for all planes of x. There is memory for its output before weights for that are made.
void apply(const Tensor& x, Weights rows, Weights columns, Tensor& out) {
  const int64_t B = x.size(0), C = x.size(1);
  const Dtype dtype = dtype_of(x, "x");
  const BandMatrix of_rows = rows.matrix(dtype), of_columns = columns.matrix(dtype);
  const bool interleaved = x.stride(1) == 1 && x.stride(3) == C && C <= kChannelBlock;
  const Tensor dense = interleaved ? x : with_dense_rows(x);
  const bool columns_first = of_rows.columns < of_rows.rows;
  const CropResizeArgs args = {.dtype = dtype,
                               .in = images_of(dense),
                               .B = B,
                               .C = C,
                               .interleaved = interleaved ? C : 1,
                               .rows = of_rows,
                               .columns = of_columns,
                               .columns_first = columns_first,
                               .band = columns_first ? rows_of_task(of_rows) : kResizeRows,
                               .out = out.mutable_data_ptr()};
  run(cpu_kernels().crop_resize, args, B * (C / args.interleaved) * args.bands());
}

// The crop is (top, left, height, width).
void check_crop(const std::vector<int64_t>& crop, int64_t height, int64_t width) {
  const auto within = [](int64_t begin, int64_t length, int64_t size) {
    return 0 <= begin && begin < size && 0 < length && length <= size - begin;
  };
  STD_TORCH_CHECK(crop.size() == 4 && within(crop[0], crop[2], height) && within(crop[1], crop[3], width),
                  "crop: expected (top, left, height, width) within ", height, "×", width);
}

Tensor crop_resize(Tensor x, std::vector<int64_t> crop, std::vector<int64_t> size) {
  check_one_batch(x, "x");
  check_crop(crop, x.size(2), x.size(3));
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0, "size: expected (h, w), both at least 1");
  Tensor out = new_planes(x, "x", size[0], size[1]);
  if (out.numel() == 0) return out;
  Tensor view = torch::stable::narrow(x, 2, crop[0], crop[2]);
  view = torch::stable::narrow(view, 3, crop[1], crop[3]);
  apply(view, resize(crop[2], size[0]), resize(crop[3], size[1]), out);
  return out;
}

// The gradient of images of `image_size`. Those outside the crop get 0.
Tensor crop_resize_backward(Tensor grad, std::vector<int64_t> image_size, std::vector<int64_t> crop) {
  check_one_batch(grad, "grad");
  STD_TORCH_CHECK(image_size.size() == 2, "image_size: expected (H, W)");
  check_crop(crop, image_size[0], image_size[1]);
  STD_TORCH_CHECK(grad.size(2) > 0 && grad.size(3) > 0, "grad: expected at least one row and column");
  Tensor out = new_planes(grad, "grad", image_size[0], image_size[1]);
  if (out.numel() == 0) return out;
  apply(grad, transposed(resize(crop[2], grad.size(2)), crop[0], image_size[0]),
        transposed(resize(crop[3], grad.size(3)), crop[1], image_size[1]), out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) {
  m.impl("crop_resize", TORCH_BOX(&crop_resize));
  m.impl("crop_resize_backward", TORCH_BOX(&crop_resize_backward));
}

}  // namespace equifast::cpu
