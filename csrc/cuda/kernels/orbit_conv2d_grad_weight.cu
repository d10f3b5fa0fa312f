// The weight gradient of orbit_conv2d: products of tiles of the output's gradient by tiles of the members, as the
// forward pass stages them, summed over pixels. Parts of the sum meet in a fixed order.
#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "cuda/device/stage.cuh"

namespace equifast::cuda {
namespace {

constexpr int kTaps = 160;                      // of a block
constexpr int64_t kWanted = int64_t(64) << 10;  // bytes of shared memory, if that is possible

// A number as it is: rounding to tf32 would show in the sum that is the bias's gradient.
__device__ inline uint32_t raw_bits(half v) { return v.bits; }
__device__ inline uint32_t raw_bits(bfloat16 v) { return v.bits; }
__device__ inline uint32_t raw_bits(float v) { return float_to_bits(v); }

// On matrix units: four warps, kN × kK × kP, each 16 channels by 80 taps by a share of the places.
template <class T, int kN, int kK, int kP>
struct MatrixWeightProduct : MatrixWords<T> {
  using typename MatrixWords<T>::Word;
  using MatrixWords<T>::kNumbers;
  static constexpr int kPlaces = 128, kChannels = 16 * kN, kShares = kP, kTiles = kTaps / kK / 8;
  static_assert(kN * kK * kP * 32 == kConvThreads);

  float sum[kTiles][4] = {};

  __device__ static Word raw_word(T first, T second) {
    return kNumbers == 1 ? raw_bits(first) : raw_bits(first) | raw_bits(second) << 16;
  }
  __device__ static float total(Word w) {
    if constexpr (kNumbers == 1) return bits_to_float(w);
    else return widen(T{static_cast<uint16_t>(w)}) + widen(T{static_cast<uint16_t>(w >> 16)});
  }
  __device__ static uint32_t rounded(Word w) { return kNumbers == 1 ? float_to_bits(to_tf32(bits_to_float(w))) : w; }

  __device__ static int share() { return threadIdx.x / 32 % kP; }
  __device__ static int first_channel() { return threadIdx.x / 32 / kP / kK * 16; }
  __device__ static int first_tap() { return threadIdx.x / 32 / kP % kK * 8 * kTiles; }

  // grad: (kChannels, pitch) words; places: of each word, where in the tile, and which of its numbers exist.
  __device__ void add(const Word* grad, int32_t pitch, const Tap* places, int32_t words, const int32_t* taps,
                      const Word* tile) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const Word* row = grad + (first_channel() + g) * pitch;
    int32_t tap[kTiles];
#pragma unroll
    for (int k = 0; k < kTiles; ++k) tap[k] = taps[first_tap() + 8 * k + g];
    for (int32_t w = 8 * share(); w < words; w += 8 * kP) {
      const Tap near = places[w + t], far = places[w + t + 4];
      const uint32_t a[4] = {rounded(row[w + t]), rounded(row[8 * pitch + w + t]), rounded(row[w + t + 4]),
                             rounded(row[8 * pitch + w + t + 4])};
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
        const uint32_t b[2] = {word_at(tile, near.offset + tap[k]) & near.mask,
                               word_at(tile, far.offset + tap[k]) & far.mask};
        mma(T{}, sum[k], a, b);
      }
    }
  }

  template <class F>
  __device__ void each(F put) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < kTiles; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        put(share(), first_channel() + g + i / 2 * 8, first_tap() + 8 * k + 2 * t + i % 2, sum[k][i]);
  }
};

// float or double: each thread has four channels by five taps.
template <class A>
struct PlainWeightProduct : PlainWords<A> {
  using typename PlainWords<A>::Word;
  static constexpr int kPlaces = 128, kChannels = 16, kShares = 1, kC = 4, kT = 5;
  static constexpr int kTapGroups = kTaps / kT;
  static_assert(kChannels / kC * kTapGroups == kConvThreads);

  A sum[kC][kT] = {};

  __device__ static Word raw_word(A v, A) { return v; }
  __device__ static A total(A v) { return v; }

  __device__ static int channel() { return threadIdx.x / kTapGroups * kC; }
  __device__ static int tap_of(int k) { return threadIdx.x % kTapGroups + k * kTapGroups; }

  __device__ void add(const Word* grad, int32_t pitch, const Tap* places, int32_t words, const int32_t* taps,
                      const Word* tile) {
    int32_t tap[kT];
#pragma unroll
    for (int k = 0; k < kT; ++k) tap[k] = taps[tap_of(k)];
    for (int32_t w = 0; w < words; ++w) {
      const Tap place = places[w];
      if (!place.mask) continue;
      A left[kC];
#pragma unroll
      for (int n = 0; n < kC; ++n) left[n] = grad[(channel() + n) * pitch + w];
#pragma unroll
      for (int k = 0; k < kT; ++k) {
        const A right = word_at(tile, place.offset + tap[k]);
#pragma unroll
        for (int n = 0; n < kC; ++n) sum[n][k] = fma(left[n], right, sum[n][k]);
      }
    }
  }

  template <class F>
  __device__ void each(F put) const {
#pragma unroll
    for (int n = 0; n < kC; ++n)
#pragma unroll
      for (int k = 0; k < kT; ++k) put(0, channel() + n, tap_of(k), sum[n][k]);
  }
};

template <class F>
void visit_weight_product(Math math, int64_t channels, F f) {
  const bool narrow = channels <= 16;
  switch (math) {
    case Math::float64: return f(PlainWeightProduct<double>());
    case Math::float32: return f(PlainWeightProduct<float>());
    case Math::tf32:
      return narrow ? f(MatrixWeightProduct<float, 1, 2, 2>()) : f(MatrixWeightProduct<float, 2, 2, 1>());
    case Math::float16:
      return narrow ? f(MatrixWeightProduct<half, 1, 2, 2>()) : f(MatrixWeightProduct<half, 2, 2, 1>());
    case Math::bfloat16: break;
  }
  return narrow ? f(MatrixWeightProduct<bfloat16, 1, 2, 2>()) : f(MatrixWeightProduct<bfloat16, 2, 2, 1>());
}

// Words of a row of the gradient's tile; four more than what fills the banks, so that rows begin in different ones.
template <class Product>
constexpr int kGradPitch = Product::kPlaces / Product::kNumbers + 4;

// Where a block's memory begins.
template <class Product>
struct Memory {
  int64_t taps, places, grad, tile, axes, end;  // in bytes

  EQUIFAST_HD explicit Memory(const WeightGradArgs& a) {
    using Word = typename Product::Word;
    taps = 0;
    places = taps + kTaps * sizeof(int32_t);
    grad = places + Product::kPlaces / Product::kNumbers * sizeof(Tap);
    tile = grad + Product::kChannels * kGradPitch<Product> * sizeof(Word);
    axes = tile + tile_words(a.tile) * sizeof(Word);
    end = axes + (a.table.interpolates ? (a.tile.rows + columns_of(a.tile)) * sizeof(Offsets) : 0);
  }
};

// What a block sums: some output channels by a run of taps.
struct Run {
  int32_t channel, split, first_c, first_row, cut;

  template <class Product>
  __device__ static Run of(const WeightGradArgs& a) {
    int32_t rest = blockIdx.x;
    const int32_t block = a.by_channel_blocks.split(rest);
    int32_t taps = a.by_tap_blocks.split(rest);
    const int32_t cut = a.by_cuts.split(taps);
    return {block * Product::kChannels, rest, taps / a.tile.row_passes * a.tile.channels,
            taps % a.tile.row_passes * a.tile.kernel_rows, cut};
  }

  // Of the k-th tap: its channel, row and column in the weight, and its offset in the tile; false if there is none.
  __device__ bool tap(const WeightGradArgs& a, int32_t k, int32_t& c, int32_t& row, int32_t& column,
                      int32_t& offset) const {
    const TileLayout& t = a.tile;
    int32_t rest = cut * kTaps + k;
    column = a.by_kernel_w.split(rest);
    const int32_t local_row = t.by_kernel_rows.split(rest);
    offset = rest * t.plane + local_row * (t.apart ? 1 : t.dilation) * t.pitch + column * a.columns.dilation;
    c = first_c + rest, row = first_row + local_row;
    return rest < t.channels && c < a.in_channels && row < a.rows.kernel;
  }
};

template <class Product>
__device__ void stage_grad(const WeightGradArgs& a, int32_t first_n, int64_t image, int32_t y0, int32_t x0,
                           typename Product::Word* grad) {
  using T = typename Product::Pixel;
  constexpr int kWords = Product::kPlaces / Product::kNumbers;
  const T* from = static_cast<const T*>(a.grad.data) + image * a.grad.n;
  const int32_t tile_w = 1 << a.tile_shift;
  const bool by_channel = a.grad.c == 1;
  for (int32_t k = threadIdx.x; k < Product::kChannels * kWords; k += kConvThreads) {
    const int32_t n = by_channel ? k % Product::kChannels : k / kWords,
                  w = by_channel ? k / Product::kChannels : k % kWords;
    const int32_t place = w * Product::kNumbers, y = place >> a.tile_shift, x = place & (tile_w - 1);
    const auto value = [&](int32_t right) {
      const int32_t i = y0 + y, j = x0 + x + right;
      const bool inside = y < a.tile_h && first_n + n < a.out_channels && i < a.out_h && j < a.out_w;
      return inside ? from[(first_n + n) * a.grad.c + i * a.grad.h + j * a.grad.w] : T{};
    };
    grad[n * kGradPitch<Product> + w] = Product::raw_word(value(0), Product::kNumbers > 1 ? value(1) : T{});
  }
}

template <class Product>
__device__ void list_places(const WeightGradArgs& a, int32_t y0, int32_t x0, Tap* places) {
  constexpr int kWords = Product::kPlaces / Product::kNumbers;
  for (int32_t w = threadIdx.x; w < kWords; w += kConvThreads) {
    const int32_t place = w * Product::kNumbers, y = place >> a.tile_shift, x = place & ((1 << a.tile_shift) - 1);
    Tap tap = {0, 0};
    if (y < a.tile_h && y0 + y < a.out_h && x0 + x < a.out_w) {
      tap.offset = (y * (a.tile.apart ? a.tile.kernel_rows : a.tile.stride) * a.tile.pitch + x * a.columns.stride) *
                   sizeof(typename Product::Word);
      tap.mask = Product::kNumbers == 1 || x0 + x + 1 < a.out_w ? 0xFFFFFFFF : 0xFFFF;
    }
    places[w] = tap;
  }
}

template <class Product>
__global__ void __launch_bounds__(kConvThreads, 4) grad_weight_kernel(const __grid_constant__ WeightGradArgs a) {
  using T = typename Product::Pixel;
  using Word = typename Product::Word;
  using Sum = typename Product::Sum;
  constexpr int kWords = Product::kPlaces / Product::kNumbers, kThreadsPerChannel = kConvThreads / Product::kChannels;
  const TileLayout& t = a.tile;
  const Run run = Run::of<Product>(a);
  const Memory<Product> memory(a);
  auto* bytes = shared_memory<unsigned char>();
  auto* taps = reinterpret_cast<int32_t*>(bytes + memory.taps);
  auto* places = reinterpret_cast<Tap*>(bytes + memory.places);
  auto* grad = reinterpret_cast<Word*>(bytes + memory.grad);
  auto* tile = reinterpret_cast<Word*>(bytes + memory.tile);
  auto* axes = reinterpret_cast<Offsets*>(bytes + memory.axes);

  int32_t c, row, column;
  for (int32_t k = threadIdx.x; k < kTaps; k += kConvThreads) {
    int32_t offset;
    taps[k] = run.tap(a, k, c, row, column, offset) ? offset * sizeof(Word) : 0;
  }
  Product product;
  Sum bias = 0;
  const bool sums_bias = a.partial_bias && run.first_c == 0 && run.first_row == 0 && run.cut == 0;
  const int32_t own = threadIdx.x / kThreadsPerChannel;
  const Grid grid = {a.in_h, a.in_w, a.table.border};
  for (int64_t unit = run.split; unit < a.units; unit += a.splits) {
    int32_t rest = static_cast<int32_t>(unit);
    const int32_t x0 = a.tiles_x.split(rest) << a.tile_shift, y0 = a.tiles_y.split(rest) * a.tile_h;
    const int32_t b = a.by_batch.split(rest), e = rest;
    const Action action = a.table.row(e);
    const int32_t i0 = y0 * a.rows.stride - a.rows.padding + run.first_row * a.rows.dilation;
    const int32_t j0 = x0 * a.columns.stride - a.columns.padding;
    const T* image = static_cast<const T*>(a.in.data) + b * a.in.n;
    __syncthreads();  // the tiles before have been read
    stage_grad<Product>(a, run.channel, int64_t(e) * a.batch + b, y0, x0, grad);
    list_places<Product>(a, y0, x0, places);
    if (action.exact()) {
      stage<Product>(t, exact_member(a.in, image, action.code, a.in_h, a.in_w), run.first_c, a.in_channels, i0, j0,
                     tile);
    } else {
      list_axes(t, action.matrix(), grid, i0, j0, axes);
      __syncthreads();
      stage<Product>(t, a.in, image, grid, axes, run.first_c, a.in_channels, i0, j0, tile);
    }
    __syncthreads();
    product.add(grad, kGradPitch<Product>, places, kWords, taps, tile);
    if (sums_bias)
      for (int32_t w = threadIdx.x % kThreadsPerChannel; w < kWords; w += kThreadsPerChannel)
        bias += Product::total(grad[own * kGradPitch<Product> + w]);
  }

  // The shares of a sum, in their order.
  __syncthreads();
  Sum* shares = shared_memory<Sum>();
  constexpr int kSize = Product::kChannels * kTaps;
  product.each([&](int share, int n, int k, Sum v) { shares[share * kSize + n * kTaps + k] = v; });
  __syncthreads();
  Sum* partial = static_cast<Sum*>(a.partial);
  for (int32_t k = threadIdx.x; k < kSize; k += kConvThreads) {
    const int32_t n = run.channel + k / kTaps;
    int32_t offset;
    if (!run.tap(a, k % kTaps, c, row, column, offset) || n >= a.out_channels) continue;
    Sum total = shares[k];
    for (int share = 1; share < Product::kShares; ++share) total += shares[share * kSize + k];
    const int64_t channel = (int64_t(run.split) * a.out_channels + n) * a.in_channels + c;
    partial[(channel * a.rows.kernel + row) * a.columns.kernel + column] = total;
  }
  if (!sums_bias) return;
#pragma unroll
  for (int lanes = kThreadsPerChannel / 2; lanes > 0; lanes /= 2) bias += __shfl_xor_sync(0xFFFFFFFF, bias, lanes);
  if (threadIdx.x % kThreadsPerChannel == 0 && run.channel + own < a.out_channels)
    static_cast<Sum*>(a.partial_bias)[int64_t(run.split) * a.out_channels + run.channel + own] = bias;
}

template <class Product>
int64_t shared_bytes(const WeightGradArgs& a) {
  return std::max<int64_t>(Memory<Product>(a).end,
                           Product::kShares * Product::kChannels * kTaps * sizeof(typename Product::Sum));
}

template <class Product>
void plan_tile(WeightGradArgs& a) {
  TileLayout& t = a.tile;
  const Device gpu = device();
  int32_t channels = std::clamp(kTaps / (a.rows.kernel * a.columns.kernel), 1, std::max(a.in_channels, 1));
  int32_t kernel_rows = std::clamp(kTaps / a.columns.kernel, 1, a.rows.kernel);
  t.dense = false;
  t.stride = a.rows.stride, t.dilation = a.rows.dilation;
  t.pair = Product::kNumbers > 1 ? a.columns.stride : 0;
  const int32_t least_shift = Product::kNumbers > 1;  // the numbers of a word are neighbours in a row
  a.tile_shift = least_shift;
  while ((1 << a.tile_shift) < std::min(a.out_w, 16)) ++a.tile_shift;
  a.tile_h = std::min(Product::kPlaces >> a.tile_shift, a.out_h);
  const auto lay_out = [&] {
    t.channels = channels, t.kernel_rows = kernel_rows;
    t.rows = (a.tile_h - 1) * t.stride + (kernel_rows - 1) * t.dilation + 1;
    t.apart = a.tile_h * kernel_rows < t.rows;
    if (t.apart) t.rows = a.tile_h * kernel_rows;
    const int32_t columns =
        ((1 << a.tile_shift) - 1) * a.columns.stride + (a.columns.kernel - 1) * a.columns.dilation + 1;
    t.words = columns - t.pair;
    t.pitch = t.words | 1;
    t.plane = (t.pitch * t.rows) | 1;
    return shared_bytes<Product>(a);
  };
  // Few places at a time, rather than one block alone on a multiprocessor.
  while (a.tile_h > 2 && lay_out() > kWanted) a.tile_h = ceil_div(a.tile_h, 2);
  while (lay_out() > gpu.shared) {
    if (a.tile_h > 1) a.tile_h = ceil_div(a.tile_h, 2);
    else if (a.tile_shift > least_shift) --a.tile_shift;
    else if (channels > 1) channels = ceil_div(channels, 2);
    else if (kernel_rows > 1) kernel_rows = ceil_div(kernel_rows, 2);
    else throw std::invalid_argument("orbit_conv2d: a row of the kernel does not fit in shared memory");
  }
  // Runs of rows of about one length.
  t.row_passes = ceil_div(a.rows.kernel, kernel_rows);
  kernel_rows = ceil_div(a.rows.kernel, t.row_passes);
  lay_out();
  const int32_t runs = ceil_div(std::max(a.in_channels, 1), channels) * t.row_passes;
  a.cuts = ceil_div(channels * kernel_rows * a.columns.kernel, kTaps);
  const int32_t channel_blocks = ceil_div(a.out_channels, Product::kChannels);
  t.by_channels = Divider(t.channels), t.by_rows = Divider(t.rows), t.by_words = Divider(t.words);
  t.by_kernel_rows = Divider(kernel_rows);
  a.by_kernel_w = Divider(a.columns.kernel);
  a.by_cuts = Divider(a.cuts), a.by_tap_blocks = Divider(runs * a.cuts), a.by_channel_blocks = Divider(channel_blocks);
  a.tiles_x = Divider(ceil_div(a.out_w, 1 << a.tile_shift)), a.tiles_y = Divider(ceil_div(a.out_h, a.tile_h));
  a.by_batch = Divider(a.batch);
  a.units = int64_t(a.table.order) * a.batch * a.tiles_x.divisor * a.tiles_y.divisor;
  if (a.units > INT32_MAX) throw std::invalid_argument("orbit_conv2d: expected less than 2^31 tiles of all members");
  // Enough blocks to fill the device a few times, and a workspace of 64 MiB at most.
  const int64_t blocks = int64_t(channel_blocks) * runs * a.cuts;
  const int64_t bytes =
      int64_t(a.out_channels) * a.in_channels * a.rows.kernel * a.columns.kernel * sizeof(typename Product::Sum);
  const int64_t wanted = ceil_div<int64_t>(4 * gpu.processors, blocks),
                room = (int64_t(64) << 20) / std::max<int64_t>(bytes, 1);
  a.splits = static_cast<int32_t>(std::clamp<int64_t>(std::min(wanted, room), 1, a.units));
}

}  // namespace

void plan(WeightGradArgs& a) {
  visit_weight_product(a.math, a.out_channels, [&]<class Product>(Product) { plan_tile<Product>(a); });
}

void grad_weight(const WeightGradArgs& a, Stream stream) {
  visit_weight_product(a.math, a.out_channels, [&]<class Product>(Product) {
    const int64_t blocks = int64_t(a.by_channel_blocks.divisor) * a.by_tap_blocks.divisor * a.splits;
    launch("orbit_conv2d: weight gradient", grad_weight_kernel<Product>, blocks, kConvThreads, shared_bytes<Product>(a),
           stream, a);
  });
}

}  // namespace equifast::cuda
