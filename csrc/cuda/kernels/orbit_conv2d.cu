// orbit_conv2d and its input gradient. A block stages a tile of a member in shared memory, already permuted, and
// multiplies from there: the orbit is never in global memory.
#include "cuda/device/stage.cuh"
#include "cuda/runtime/conv_plan.h"

namespace equifast::cuda {
namespace {

// GELU by erf and SiLU, as torch computes them. NaN stays NaN.
__device__ float activated(float v, Activation activation) {
  switch (activation) {
    case Activation::relu: return v < 0 ? 0 : v;
    case Activation::gelu: return v * 0.5f * (1 + erff(v * 0.70710678118654752f));
    case Activation::silu: return v / (1 + expf(-v));
    case Activation::none: break;
  }
  return v;
}
__device__ double activated(double v, Activation activation) {
  switch (activation) {
    case Activation::relu: return v < 0 ? 0 : v;
    case Activation::gelu: return v * 0.5 * (1 + erf(v * 0.70710678118654752440));
    case Activation::silu: return v / (1 + exp(-v));
    case Activation::none: break;
  }
  return v;
}

// What a block computes: a tile of places at (y, x) and a block of columns, for image b and, but for gradients, element
// e.
struct BlockPart {
  int32_t columns, y, x, b, e;

  __device__ explicit BlockPart(const ConvArgs& a) {
    int32_t rest = blockIdx.x;
    columns = a.column_blocks.split(rest);
    x = a.tiles_x.split(rest) << a.tile_shift;
    y = a.tiles_y.split(rest) * a.tile_h;
    b = a.by_batch.split(rest);
    e = rest;
  }
};

// An image that is nowhere in memory, where a block's tile begins in it, and how far apart places are there.
template <class T>
struct View {
  StridedSource<T> source;
  int32_t i0, j0, step_i, step_j;
};

template <class T>
__device__ View<T> view_of_member(const ConvArgs& a, const BlockPart& part, const Member& member) {
  return {source_of<T>(a, member, part.b), part.y * a.rows.stride - a.rows.padding,
          part.x * a.columns.stride - a.columns.padding, a.rows.stride, a.columns.stride};
}

// Position v along an axis of the product's kernel is output min_offset + v; or max_offset − v, where the member counts
// down. Moves `origin` to position 0, and returns the step, and which positions are outputs.
template <class T>
__device__ void follow(const Axis& axis, int64_t stride, int32_t size, const T*& origin, int64_t& step, int32_t& first,
                       uint32_t& count) {
  origin += (axis.reversed ? axis.max_offset : axis.min_offset) * stride;
  step = axis.reversed ? -stride : stride;
  first = axis.reversed ? axis.max_offset - size + 1 : -axis.min_offset;
  count = size;
}

// The gradient of the member of element e, turned back.
template <class T>
__device__ View<T> view_of_gradient(const ConvArgs& a, const BlockPart& part, int64_t e, int code) {
  const CellAxes axes(a, code);
  const bool transposed = axes.permutation.transposed;
  StridedSource<T> s = {};
  s.origin = static_cast<const T*>(a.in.data) + (e * a.batch + part.b) * a.in.n;
  s.channel = a.in.c;
  follow(axes.i, transposed ? a.in.w : a.in.h, transposed ? a.in_w : a.in_h, s.origin, s.down, s.first_i, s.count_i);
  follow(axes.j, transposed ? a.in.h : a.in.w, transposed ? a.in_h : a.in_w, s.origin, s.right, s.first_j, s.count_j);
  return {s, part.y * axes.i.outputs_per_cell, part.x * axes.j.outputs_per_cell, axes.i.outputs_per_cell,
          axes.j.outputs_per_cell};
}

// Lists the taps of one pass; first_row is the kernel row it starts at.
template <class Product>
__device__ void list_taps(const ConvArgs& a, int32_t first_row, WordTap* taps) {
  const TileLayout& t = a.tile;
  for (int32_t w = threadIdx.x; w < 8 * t.steps; w += kConvThreads) {
    int32_t c = w;
    const int32_t q = t.by_kernel_words.split(c), row = t.by_kernel_rows.split(c);
    WordTap tap = {0, 0};
    if (c < t.channels && first_row + row < a.kernel_h) {
      const int32_t column = q * Product::kNumbers * a.dilation_w;
      const int32_t word = c * t.plane + row * (t.apart ? 1 : a.dilation_h) * t.pitch + (t.dense ? column / 2 : column);
      tap.offset = word * sizeof(typename Product::Word);
      tap.mask = Product::kNumbers * (q + 1) <= a.kernel_w ? 0xFFFFFFFF : 0xFFFF;
    }
    taps[w] = tap;
  }
}

// Writes the sums of the product to the output. They go through shared memory, so that neighbours in memory are written
// together: neighbouring threads have neighbouring places, or neighbouring columns where channels are together.
template <class Product, bool kGradient, class Out>
__device__ void write(const ConvArgs& a, const BlockPart& part, const Product& product) {
  using Sum = typename Product::Sum;
  constexpr int kRows = Product::kRows, kColumns = Product::kColumns, kPitch = sums_pitch(kRows);
  static_assert(kColumns <= kConvThreads);
  Sum* sums = shared_memory<Sum>();
  product.each([&](int m, int n, Sum v) { sums[n * kPitch + m] = v; });
  __syncthreads();
  const auto* bias = static_cast<const typename Product::Pixel*>(a.bias);
  Out* out = static_cast<Out*>(a.out.data) + (kGradient ? part.b : int64_t(part.e) * a.all_images + part.b) * a.out.n;
  const bool by_column = a.out.c == 1;
  const int thread = threadIdx.x, step_m = by_column ? kConvThreads / kColumns : kConvThreads;
  const int first_n = by_column ? thread % kColumns : thread / kRows;
  const int step_n = by_column ? kColumns : kRows < kConvThreads ? kConvThreads / kRows : 1;
#pragma unroll 1
  for (int m = by_column ? thread / kColumns : thread % kRows; m < kRows; m += step_m) {
    const int32_t y = m >> a.tile_shift, x = m & ((1 << a.tile_shift) - 1);
    const int32_t i = (part.y + y) * a.cell_h, j = (part.x + x) * a.cell_w;
    if (y >= a.tile_h || i >= a.out_h || j >= a.out_w) continue;
    Out* pixel = out + i * a.out.h + j * a.out.w;
#pragma unroll 2
    for (int n = first_n; n < kColumns; n += step_n) {
      int32_t c = part.columns * kColumns + n;
      int64_t to = 0;
      if (kGradient) {
        const int32_t fj = a.by_cell_w.split(c), fi = a.by_cell_h.split(c);
        if (i + fi >= a.out_h || j + fj >= a.out_w) continue;
        to = fi * a.out.h + fj * a.out.w;
      }
      if (c >= a.out_channels) break;
      Sum v = sums[n * kPitch + m];
      if (bias) v += Sum(widen(bias[c]));
      pixel[to + c * a.out.c] = narrow<Out>(activated(v, a.activation));
    }
  }
}

// A block computes its part of the output, for one element; or for gradients, summed over the elements of one source.
//
// 1. Find the element's image, and where the block's places lie in it.
// 2. For every pass over channels and kernel rows: list the taps, stage the tile, and multiply it by the packed
// weights.
// 3. Write the sums, with bias and activation.
template <class Product, bool kGradient>
__global__ void __launch_bounds__(kConvThreads, Product::kBlocks) convolve_kernel(const __grid_constant__ ConvArgs a) {
  using T = typename Product::Pixel;
  using Word = typename Product::Word;
  const TileLayout& t = a.tile;
  const BlockPart part(a);
  WordTap* taps = shared_memory<WordTap>();
  Word* tile = reinterpret_cast<Word*>(taps + 8 * t.steps);
  Product product;
  for (int32_t e = kGradient ? 0 : part.e; e < (kGradient ? a.members.order : part.e + 1); ++e) {
    const Member member = a.members[e];
    if (kGradient && member.source != a.source) continue;
    const View<T> view = kGradient ? view_of_gradient<T>(a, part, e, member.code) : view_of_member<T>(a, part, member);
    product.place([&](int m) {
      const int32_t y = m >> a.tile_shift, x = m & ((1 << a.tile_shift) - 1), right = x * view.step_j;
      return y < a.tile_h ? y * (t.apart ? t.kernel_rows : view.step_i) * t.pitch + (t.dense ? right / 2 : right) : 0;
    });
    for (int32_t pass = 0; pass < t.passes; ++pass) {
      const int32_t first_c = pass / t.row_passes * t.channels, first_row = pass % t.row_passes * t.kernel_rows;
      const int32_t i0 = view.i0 + first_row * a.dilation_h;
      __syncthreads();  // the tile before has been read
      if (pass == 0 || t.row_passes > 1) list_taps<Product>(a, first_row, taps);
      stage<Product>(t, view.source, first_c, a.in_channels, i0, view.j0, tile);
      __syncthreads();
      const int64_t block = ((kGradient ? int64_t(e) * t.passes : 0) + pass) * a.column_blocks.divisor + part.columns;
      product.add(taps, t.channels * t.kernel_rows * t.kernel_words, t.steps, tile,
                  static_cast<const Word*>(a.packed) + block * (8 * t.steps * Product::kColumns));
    }
  }
  __syncthreads();
  if (kGradient && a.out_is_sum) write<Product, kGradient, typename Product::Sum>(a, part, product);
  else write<Product, kGradient, T>(a, part, product);
}

// Packs the weights in the order in which products read them, one word for each thread. For the input gradient, every
// element has weights of its own: each pixel of a cell (a column) reads other taps of the kernel.
//
// 1. Find the thread's word: its block of columns, pass and element, as in convolve_kernel, then its column and place
// there.
// 2. Find the numbers of the word in the weight, and write them; zeros where there are none.
template <class Product, bool kGradient>
__global__ void __launch_bounds__(kConvThreads) pack_kernel(const __grid_constant__ ConvArgs a) {
  using T = typename Product::Pixel;
  const TileLayout& t = a.tile;
  const auto* weight = static_cast<const T*>(a.weight.data);
  const int64_t words = 8 * t.steps, block = words * Product::kColumns;
  const int64_t thread = int64_t(blockIdx.x) * kConvThreads + threadIdx.x;
  const int64_t outer = thread / block, inner = thread % block;
  int32_t rest = static_cast<int32_t>(outer);
  const int32_t columns = a.column_blocks.split(rest);
  const int32_t pass = rest % t.passes, e = rest / t.passes;
  if (e >= (kGradient ? a.members.order : 1)) return;
  const int32_t n = static_cast<int32_t>(inner % Product::kColumns);
  int32_t w = static_cast<int32_t>(inner / Product::kColumns);
  const int64_t to = outer * block + Product::packed(w, n);

  const int32_t q = t.by_kernel_words.split(w), row_of_pass = t.by_kernel_rows.split(w);
  const int32_t c = pass / t.row_passes * t.channels + w, row = pass % t.row_passes * t.kernel_rows + row_of_pass;
  int32_t column = columns * Product::kColumns + n;
  const int32_t fj = a.by_cell_w.split(column), fi = a.by_cell_h.split(column);
  const bool exists = w < t.channels && c < a.in_channels && row < a.kernel_h && column < a.out_channels;
  const CellAxes axes(a, kGradient ? a.members[e].code : 0);
  T value[2] = {};
  for (int k = 0; k < Product::kNumbers; ++k) {
    const int32_t tap = q * Product::kNumbers + k;
    if (!exists || tap >= a.kernel_w) continue;
    int32_t from_n = column, from_c = c, kernel_i = row, kernel_j = tap;
    if (kGradient) {
      const bool transposed = axes.permutation.transposed;
      const int32_t along_i = axes.i.tap(transposed ? a.columns : a.rows, fi, row);
      const int32_t along_j = axes.j.tap(transposed ? a.rows : a.columns, fj, tap);
      if (along_i < 0 || along_j < 0) continue;
      from_n = c, from_c = column;
      kernel_i = transposed ? along_j : along_i, kernel_j = transposed ? along_i : along_j;
    }
    value[k] = weight[from_n * a.weight.n + from_c * a.weight.c + kernel_i * a.weight.h + kernel_j * a.weight.w];
  }
  static_cast<typename Product::Word*>(a.packed)[to] = Product::word(value[0], value[1]);
}

template <class Product, bool kGradient>
void launch_both(const ConvPlan& plan, Stream stream) {
  launch("orbit_conv2d: pack", pack_kernel<Product, kGradient>, ceil_div<int64_t>(plan.packed_words, kConvThreads),
         kConvThreads, 0, stream, plan.args);
  launch("orbit_conv2d", convolve_kernel<Product, kGradient>, plan.blocks, kConvThreads, plan.shared_bytes, stream,
         plan.args);
}

}  // namespace

void launch_orbit_conv2d(const ConvPlan& plan, Stream stream) {
  visit_product(plan.args.math, plan.args.product_columns, [&]<class Product>(Product) {
    plan.args.gradient ? launch_both<Product, true>(plan, stream) : launch_both<Product, false>(plan, stream);
  });
}

}  // namespace equifast::cuda
