// orbit_conv2d and its input gradient: each block stages a tile of a member, already rotated or reflected, and
// multiplies from there; the orbit is never in global memory.
#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "cuda/device/stage.cuh"

namespace equifast::cuda {
namespace {

__device__ float activated(float v, Activation activation) {
  switch (activation) {
    case Activation::relu: return v < 0 ? 0 : v;  // NaN stays
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

// What a block makes: a tile of places, some columns, of one image and, but for gradients, one element.
struct Part {
  int32_t columns, y, x, b, e;

  __device__ explicit Part(const ConvArgs& a) {
    int32_t rest = blockIdx.x;
    columns = a.column_blocks.split(rest);
    x = a.tiles_x.split(rest) << a.tile_shift;
    y = a.tiles_y.split(rest) * a.tile_h;
    b = a.by_batch.split(rest);
    e = rest;
  }
};

// The outputs that cells along the source's rows and columns read of one member.
struct CellAxes {
  Permutation permutation;
  Axis i, j;

  EQUIFAST_HD CellAxes(const ConvArgs& a, int code)
      : permutation(code),
        i(permutation.transposed ? a.columns : a.rows, a.cell_h, permutation.reverse_row),
        j(permutation.transposed ? a.rows : a.columns, a.cell_w, permutation.reverse_col) {}
};

// A virtual image, where a block's tile begins in it, and how far places are apart there.
template <class T>
struct View {
  StridedSource<T> source;
  int32_t i0, j0, step_i, step_j;
};

// The image that an exact element makes.
template <class T>
__device__ View<T> view_of_member(const ConvArgs& a, const Part& part, int code) {
  const T* image = static_cast<const T*>(a.in.data) + part.b * a.in.n;
  return {exact_member(a.in, image, code, a.in_h, a.in_w), part.y * a.rows.stride - a.rows.padding,
          part.x * a.columns.stride - a.columns.padding, a.rows.stride, a.columns.stride};
}

// Position v along an axis is output least + v, or most − v, of `size`.
template <class T>
__device__ void follow(const Axis& axis, int64_t stride, int32_t size, const T*& at, int64_t& step, int32_t& first,
                       int32_t& end) {
  at += (axis.reversed ? axis.most : axis.least) * stride;
  step = axis.reversed ? -stride : stride;
  first = axis.reversed ? axis.most - size + 1 : -axis.least;
  end = first + size;
}

// The gradient of what element e made, turned back.
template <class T>
__device__ View<T> view_of_gradient(const ConvArgs& a, const Part& part, int64_t e, int code) {
  const CellAxes axes(a, code);
  const bool turned = axes.permutation.transposed;
  StridedSource<T> s = {};
  s.at = static_cast<const T*>(a.in.data) + (e * a.batch + part.b) * a.in.n;
  s.channel = a.in.c;
  follow(axes.i, turned ? a.in.w : a.in.h, turned ? a.in_w : a.in_h, s.at, s.down, s.first_i, s.end_i);
  follow(axes.j, turned ? a.in.h : a.in.w, turned ? a.in_h : a.in_w, s.at, s.right, s.first_j, s.end_j);
  return {s, part.y * axes.i.step, part.x * axes.j.step, axes.i.step, axes.j.step};
}

// Of a pass whose first row of the kernel is `first_row`.
template <class Product>
__device__ void list_taps(const ConvArgs& a, int32_t first_row, Tap* taps) {
  const TileLayout& t = a.tile;
  for (int32_t w = threadIdx.x; w < 8 * t.steps; w += kConvThreads) {
    int32_t c = w;
    const int32_t q = t.by_kernel_words.split(c), row = t.by_kernel_rows.split(c);
    Tap tap = {0, 0};
    if (c < t.channels && first_row + row < a.kernel_h) {
      const int32_t column = q * Product::kNumbers * a.dilation_w;
      const int32_t word = c * t.plane + row * (t.apart ? 1 : a.dilation_h) * t.pitch + (t.dense ? column / 2 : column);
      tap.offset = word * sizeof(typename Product::Word);
      tap.mask = Product::kNumbers * (q + 1) <= a.kernel_w ? 0xFFFFFFFF : 0xFFFF;
    }
    taps[w] = tap;
  }
}

// What the product sums to, through shared memory: neighbours in memory are written together.
template <class Product, class Out>
__device__ void write(const ConvArgs& a, const Part& part, const Product& product) {
  using Sum = typename Product::Sum;
  constexpr int kPitch = Product::kRows + 4;  // no two of a warp's sums in one bank
  Sum* sums = shared_memory<Sum>();
  product.each([&](int m, int n, Sum v) { sums[n * kPitch + m] = v; });
  __syncthreads();
  const auto* bias = static_cast<const typename Product::Pixel*>(a.bias);
  Out* out = static_cast<Out*>(a.out) + (a.gradient ? part.b : int64_t(part.e) * a.batch + part.b) * a.on;
  const bool by_column = a.oc == 1;
  for (int32_t k = threadIdx.x; k < Product::kColumns * Product::kRows; k += kConvThreads) {
    const int32_t m = by_column ? k / Product::kColumns : k % Product::kRows;
    const int32_t n = by_column ? k % Product::kColumns : k / Product::kRows;
    const int32_t y = m >> a.tile_shift, x = m & ((1 << a.tile_shift) - 1);
    int32_t c = part.columns * Product::kColumns + n;
    const int32_t fj = a.by_cell_w.split(c), fi = a.by_cell_h.split(c);
    const int32_t i = (part.y + y) * a.cell_h + fi, j = (part.x + x) * a.cell_w + fj;
    if (y >= a.tile_h || c >= a.out_channels || i >= a.out_h || j >= a.out_w) continue;
    Sum v = sums[n * kPitch + m];
    if (bias) v += Sum(widen(bias[c]));
    out[c * a.oc + i * a.oh + j * a.ow] = narrow<Out>(activated(v, a.activation));
  }
}

template <class Product, bool kGradient>
__global__ void __launch_bounds__(kConvThreads, Product::kBlocks) convolve_kernel(const __grid_constant__ ConvArgs a) {
  using T = typename Product::Pixel;
  using Word = typename Product::Word;
  const TileLayout& t = a.tile;
  const Part part(a);
  Tap* taps = shared_memory<Tap>();
  Word* tile = reinterpret_cast<Word*>(taps + 8 * t.steps);
  Offsets* axes = reinterpret_cast<Offsets*>(tile + tile_words(t));
  Product product;
  const Grid grid = {a.in_h, a.in_w, a.table.border};
  for (int32_t e = kGradient ? 0 : part.e; e < (kGradient ? a.table.order : part.e + 1); ++e) {
    const Action action = a.table.row(e);
    if (kGradient && !(action.base == a.base)) continue;
    const bool interpolates = !kGradient && !action.exact();
    const View<T> view = kGradient ? view_of_gradient<T>(a, part, e, action.code)
                                   : view_of_member<T>(a, part, interpolates ? 0 : action.code);
    product.place([&](int m) {
      const int32_t y = m >> a.tile_shift, x = m & ((1 << a.tile_shift) - 1), right = x * view.step_j;
      return y < a.tile_h ? y * (t.apart ? t.kernel_rows : view.step_i) * t.pitch + (t.dense ? right / 2 : right) : 0;
    });
    for (int32_t pass = 0; pass < t.passes; ++pass) {
      const int32_t first_c = pass / t.row_passes * t.channels, first_row = pass % t.row_passes * t.kernel_rows;
      const int32_t i0 = view.i0 + first_row * a.dilation_h;
      __syncthreads();  // the tile before has been read
      if (pass == 0 || t.row_passes > 1) list_taps<Product>(a, first_row, taps);
      if (interpolates) {
        list_axes(t, action.matrix(), grid, i0, view.j0, axes);
        __syncthreads();
        stage<Product>(t, a.in, static_cast<const T*>(a.in.data) + part.b * a.in.n, grid, axes, first_c, a.in_channels,
                       i0, view.j0, tile);
      } else {
        stage<Product>(t, view.source, first_c, a.in_channels, i0, view.j0, tile);
      }
      __syncthreads();
      const int64_t block = ((kGradient ? int64_t(e) * t.passes : 0) + pass) * a.column_blocks.divisor + part.columns;
      product.add(taps, t.channels * t.kernel_rows * t.kernel_words, t.steps, tile,
                  static_cast<const Word*>(a.packed) + block * (8 * t.steps * Product::kColumns));
    }
  }
  __syncthreads();
  if (kGradient && a.wide_out) write<Product, typename Product::Sum>(a, part, product);
  else write<Product, T>(a, part, product);
}

// The weights, as products read them: one thread a word. The order of blocks is that of convolve_kernel.
template <class Product, bool kGradient>
__global__ void __launch_bounds__(kConvThreads) pack_kernel(const __grid_constant__ ConvArgs a) {
  using T = typename Product::Pixel;
  const TileLayout& t = a.tile;
  const auto* weight = static_cast<const T*>(a.weight);
  const int64_t words = 8 * t.steps, block = words * Product::kColumns;
  const int64_t at = int64_t(blockIdx.x) * kConvThreads + threadIdx.x;
  const int64_t outer = at / block, inner = at % block;
  int32_t rest = static_cast<int32_t>(outer);
  const int32_t columns = a.column_blocks.split(rest);
  const int32_t pass = rest % t.passes, e = rest / t.passes;
  if (e >= (kGradient ? a.table.order : 1)) return;
  const int32_t n = static_cast<int32_t>(inner % Product::kColumns);
  int32_t w = static_cast<int32_t>(inner / Product::kColumns);
  const int64_t to = outer * block + Product::packed(w, n);

  const int32_t q = t.by_kernel_words.split(w), row_of_pass = t.by_kernel_rows.split(w);
  const int32_t c = pass / t.row_passes * t.channels + w, row = pass % t.row_passes * t.kernel_rows + row_of_pass;
  int32_t column = columns * Product::kColumns + n;
  const int32_t fj = a.by_cell_w.split(column), fi = a.by_cell_h.split(column);
  const bool exists = w < t.channels && c < a.in_channels && row < a.kernel_h && column < a.out_channels;
  const Action action = kGradient ? a.table.row(e) : Action{};
  const CellAxes axes(a, action.code);
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
    value[k] = weight[from_n * a.wn + from_c * a.wc + kernel_i * a.wh + kernel_j * a.ww];
  }
  static_cast<typename Product::Word*>(a.packed)[to] = Product::word(value[0], value[1]);
}

template <class Product>
int64_t shared_bytes(const ConvArgs& a) {
  const TileLayout& t = a.tile;
  const int64_t tile = 8 * t.steps * sizeof(Tap) + tile_words(t) * sizeof(typename Product::Word) +
                       (a.table.interpolates ? (t.rows + columns_of(t)) * sizeof(Offsets) : 0);
  return std::max<int64_t>(tile, Product::kColumns * (Product::kRows + 4) * sizeof(typename Product::Sum));
}

int64_t blocks(const ConvArgs& a) {
  return int64_t(a.column_blocks.divisor) * a.tiles_x.divisor * a.tiles_y.divisor * a.batch *
         (a.gradient ? 1 : a.table.order);
}

template <class Product>
int64_t packed_words(const ConvArgs& a) {
  return int64_t(a.gradient ? a.table.order : 1) * a.tile.passes * a.column_blocks.divisor * 8 * a.tile.steps *
         Product::kColumns;
}

// The least power of two that is at least n, as its exponent.
int32_t exponent(int64_t n) {
  int32_t e = 0;
  while ((int64_t(1) << e) < n) ++e;
  return e;
}

// The largest tile that fits, and as many channels and rows of the kernel at once as leave room for other blocks.
template <class Product>
void plan_tile(ConvArgs& a) {
  TileLayout& t = a.tile;
  const int64_t most = device().shared, wanted = std::min<int64_t>(most, 40 << 10);
  const int32_t grid_h = ceil_div(a.out_h, a.cell_h), grid_w = ceil_div(a.out_w, a.cell_w);
  // Along an axis of a gradient, how far cells are apart depends on the member.
  const int32_t step_h = a.gradient ? a.cell_h / std::min(a.rows.stride, a.columns.stride) : a.rows.stride;
  const int32_t step_w = a.gradient ? a.cell_w / std::min(a.rows.stride, a.columns.stride) : a.columns.stride;
  t.dense = Product::kNumbers > 1 && !a.gradient && step_w % 2 == 0 && a.dilation_w == 1;
  t.pair = Product::kNumbers > 1 ? a.dilation_w : 0;
  t.kernel_words = ceil_div(a.kernel_w, Product::kNumbers);
  a.tile_shift = std::min(exponent(grid_w), std::min(exponent(Product::kRows), 4));
  a.tile_h = std::min(Product::kRows >> a.tile_shift, grid_h);

  const auto lay_out = [&](int32_t channels, int32_t kernel_rows) {
    t.channels = channels, t.kernel_rows = kernel_rows;
    t.rows = (a.tile_h - 1) * step_h + (kernel_rows - 1) * a.dilation_h + 1;
    t.apart = !a.gradient && a.tile_h * kernel_rows < t.rows;
    if (t.apart) t.rows = a.tile_h * kernel_rows;
    const int32_t columns =
        ((1 << a.tile_shift) - 1) * step_w + (t.kernel_words * Product::kNumbers - 1) * a.dilation_w + 1;
    t.words = t.dense ? ceil_div(columns, 2) : columns - t.pair;
    t.pitch = t.words | 1;  // odd: rows are written side by side without conflicts
    t.plane = (t.pitch * t.rows) | 1;
    t.steps = ceil_div(channels * kernel_rows * t.kernel_words, 8);
    return shared_bytes<Product>(a);
  };
  int32_t channels = std::max(a.in_channels, 1), kernel_rows = a.kernel_h;
  t.stride = a.rows.stride, t.dilation = a.rows.dilation;
  while (channels > 1 && lay_out(channels, kernel_rows) > wanted) channels = ceil_div(channels, 2);
  // Fewer rows of the kernel take less memory only where those of places are apart.
  while (kernel_rows > 1 && a.rows.stride >= a.rows.kernel && lay_out(channels, kernel_rows) > wanted)
    kernel_rows = ceil_div(kernel_rows, 2);
  while (lay_out(channels, kernel_rows) > most) {
    if (a.tile_h > 1 && (a.tile_shift == 0 || a.tile_h >= 1 << a.tile_shift)) a.tile_h = ceil_div(a.tile_h, 2);
    else if (a.tile_shift > 0) --a.tile_shift;
    else if (kernel_rows > 1) kernel_rows = ceil_div(kernel_rows, 2);
    else throw std::invalid_argument("orbit_conv2d: a row of the kernel does not fit in shared memory");
  }
  t.row_passes = ceil_div(a.kernel_h, kernel_rows);
  t.passes = ceil_div(a.in_channels, channels) * t.row_passes;
  t.by_channels = Divider(t.channels), t.by_rows = Divider(t.rows), t.by_words = Divider(t.words);
  t.by_kernel_rows = Divider(t.kernel_rows), t.by_kernel_words = Divider(t.kernel_words);
  a.tiles_x = Divider(ceil_div(grid_w, 1 << a.tile_shift)), a.tiles_y = Divider(ceil_div(grid_h, a.tile_h));
  a.column_blocks = Divider(ceil_div<int64_t>(a.columns_of_product, Product::kColumns));
}

template <class Product, bool kGradient>
void run(const ConvArgs& a, Stream stream) {
  launch("orbit_conv2d: pack", pack_kernel<Product, kGradient>,
         ceil_div<int64_t>(packed_words<Product>(a), kConvThreads), kConvThreads, 0, stream, a);
  launch("orbit_conv2d", convolve_kernel<Product, kGradient>, blocks(a), kConvThreads, shared_bytes<Product>(a), stream,
         a);
}

}  // namespace

void plan(ConvArgs& a) {
  a.cell_h = a.cell_w = 1;
  a.kernel_h = a.rows.kernel, a.kernel_w = a.columns.kernel;
  a.dilation_h = a.rows.dilation, a.dilation_w = a.columns.dilation;
  if (a.gradient) {
    // Cells of whole strides, whichever way a member is turned, and of enough pixels to fill the columns of a product.
    int32_t h = a.rows.stride, w = a.columns.stride;
    if (a.rows.size == a.columns.size) h = w = std::lcm(h, w);
    int32_t scale = 1;
    while (a.out_channels * h * w * scale * scale < 12) scale *= 2;
    a.cell_h = h * scale, a.cell_w = w * scale;
    a.kernel_h = a.kernel_w = a.dilation_h = a.dilation_w = 1;
    for (const int code : {0, 1, 2, 3, 4, 5, 6, 7}) {
      if (code & 1 && a.rows.size != a.columns.size) continue;
      const CellAxes axes(a, code);
      a.kernel_h = std::max(a.kernel_h, axes.i.count()), a.kernel_w = std::max(a.kernel_w, axes.j.count());
    }
  }
  a.columns_of_product = a.out_channels * a.cell_h * a.cell_w;
  a.by_cell_h = Divider(a.cell_h), a.by_cell_w = Divider(a.cell_w), a.by_batch = Divider(std::max(a.batch, 1));
  visit_product(a.math, a.columns_of_product, [&]<class Product>(Product) { plan_tile<Product>(a); });
}

int64_t packed_bytes(const ConvArgs& a) {
  return visit_product(a.math, a.columns_of_product, [&]<class Product>(Product) {
    return packed_words<Product>(a) * static_cast<int64_t>(sizeof(typename Product::Word));
  });
}

void convolve(const ConvArgs& a, Stream stream) {
  visit_product(a.math, a.columns_of_product, [&]<class Product>(Product) {
    a.gradient ? run<Product, true>(a, stream) : run<Product, false>(a, stream);
  });
}

}  // namespace equifast::cuda
