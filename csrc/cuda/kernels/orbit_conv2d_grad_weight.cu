// The weight gradient of orbit_conv2d: products of tiles of the output's gradient by tiles of the members, which are
// staged as in the forward pass, summed over pixels. The parts of the sum are added up in a fixed order.
#include "cuda/device/stage.cuh"
#include "cuda/runtime/conv_plan.h"

namespace equifast::cuda {
namespace {

// The bits of a number, not rounded to tf32: that would show in the sum that is the gradient of the bias.
__device__ inline uint32_t raw_bits(half v) { return v.bits; }
__device__ inline uint32_t raw_bits(bfloat16 v) { return v.bits; }
__device__ inline uint32_t raw_bits(float v) { return float_to_bits(v); }

// On matrix units. Of kN × kK × kP = 4 warps, each has 16 channels by 80 taps by a share of the places.
template <class T, int kN, int kK, int kP>
struct MatrixGradWeight : MatrixWords<T> {
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

  // Adds the products of one tile to the sum. grad: (kChannels, pitch) words. places: where each word of places begins
  // in the tile, and which of its numbers exist. taps: the offsets of the taps from there.
  __device__ void add(const Word* grad, int32_t pitch, const WordTap* places, int32_t words, const int32_t* taps,
                      const Word* tile) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const Word* row = grad + (first_channel() + g) * pitch;
    int32_t tap[kTiles];
#pragma unroll
    for (int k = 0; k < kTiles; ++k) tap[k] = taps[first_tap() + 8 * k + g];
    for (int32_t w = 8 * share(); w < words; w += 8 * kP) {
      const WordTap low = places[w + t], high = places[w + t + 4];
      const uint32_t a[4] = {rounded(row[w + t]), rounded(row[8 * pitch + w + t]), rounded(row[w + t + 4]),
                             rounded(row[8 * pitch + w + t + 4])};
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
        const uint32_t b[2] = {word_at(tile, low.offset + tap[k]) & low.mask,
                               word_at(tile, high.offset + tap[k]) & high.mask};
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

// In plain multiply-adds. A is float or double. Each thread has four channels by five taps.
template <class A>
struct PlainGradWeight : PlainWords<A> {
  using typename PlainWords<A>::Word;
  static constexpr int kPlaces = 128, kChannels = 16, kShares = 1, kC = 4, kT = 5;
  static constexpr int kTapThreads = kTaps / kT;
  static_assert(kChannels / kC * kTapThreads == kConvThreads);

  A sum[kC][kT] = {};

  __device__ static Word raw_word(A v, A) { return v; }
  __device__ static A total(A v) { return v; }

  __device__ static int channel() { return threadIdx.x / kTapThreads * kC; }
  __device__ static int tap_of(int k) { return threadIdx.x % kTapThreads + k * kTapThreads; }

  __device__ void add(const Word* grad, int32_t pitch, const WordTap* places, int32_t words, const int32_t* taps,
                      const Word* tile) {
    int32_t tap[kT];
#pragma unroll
    for (int k = 0; k < kT; ++k) tap[k] = taps[tap_of(k)];
    for (int32_t w = 0; w < words; ++w) {
      const WordTap place = places[w];
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

template <class Product>
constexpr GradWeightShape shape_of_grad_weight = {
    Product::kChannels,
    Product::kPlaces,
    Product::kShares,
    {Product::kNumbers, sizeof(typename Product::Word), sizeof(typename Product::Sum)}};

// Calls f with a product that suits so many output channels.
template <Math math, class Narrow, class Wide, class F>
void visit_channels(int64_t channels, F f) {
  static_assert(shape_of_grad_weight<Narrow> == grad_weight_shape(math, kNarrow),
                "host code plans for another product");
  static_assert(shape_of_grad_weight<Wide> == grad_weight_shape(math, kNarrow + 1),
                "host code plans for another product");
  channels <= kNarrow ? f(Narrow()) : f(Wide());
}

template <class T>
using NarrowProduct = MatrixGradWeight<T, 1, 2, 2>;
template <class T>
using WideProduct = MatrixGradWeight<T, 2, 2, 1>;

template <class F>
void visit_grad_weight(Math math, int64_t channels, F f) {
  switch (math) {
    case Math::float64: return f(PlainGradWeight<double>());
    case Math::float32: return f(PlainGradWeight<float>());
    case Math::tf32: return visit_channels<Math::tf32, NarrowProduct<float>, WideProduct<float>>(channels, f);
    case Math::float16: return visit_channels<Math::float16, NarrowProduct<half>, WideProduct<half>>(channels, f);
    case Math::bfloat16:
      return visit_channels<Math::bfloat16, NarrowProduct<bfloat16>, WideProduct<bfloat16>>(channels, f);
  }
}
static_assert(shape_of_grad_weight<PlainGradWeight<double>> == grad_weight_shape(Math::float64, kNarrow));
static_assert(shape_of_grad_weight<PlainGradWeight<float>> == grad_weight_shape(Math::float32, kNarrow));

// What a block sums: some output channels by a run of taps, over one split of the tiles.
struct BlockPart {
  int32_t channel, split, first_c, first_row, cut;

  template <class Product>
  __device__ static BlockPart of(const GradWeightArgs& a) {
    int32_t split = blockIdx.x;
    const int32_t channel_block = a.by_channel_blocks.split(split);
    int32_t taps = a.by_tap_blocks.split(split);
    const int32_t cut = a.by_cuts.split(taps);
    return {channel_block * Product::kChannels, split, taps / a.tile.row_passes * a.tile.channels,
            taps % a.tile.row_passes * a.tile.kernel_rows, cut};
  }

  // Finds the channel, row and column of the k-th tap in the weight, and its offset in the tile; false if there is
  // none.
  __device__ bool tap(const GradWeightArgs& a, int32_t k, int32_t& c, int32_t& row, int32_t& column,
                      int32_t& offset) const {
    const TileLayout& t = a.tile;
    int32_t local_c = cut * kTaps + k;
    column = a.by_kernel_w.split(local_c);
    const int32_t local_row = t.by_kernel_rows.split(local_c);
    offset = local_c * t.plane + local_row * (t.apart ? 1 : t.dilation) * t.pitch + column * a.columns.dilation;
    c = first_c + local_c, row = first_row + local_row;
    return local_c < t.channels && c < a.in_channels && row < a.rows.kernel;
  }
};

// Stages a tile of the output's gradient: (kChannels, words) of places that begin at (y0, x0).
template <class Product>
__device__ void stage_grad(const GradWeightArgs& a, int32_t first_n, int64_t image, int32_t y0, int32_t x0,
                           typename Product::Word* grad) {
  using T = typename Product::Pixel;
  constexpr GradWeightShape kShape = shape_of_grad_weight<Product>;
  constexpr int kWords = kShape.place_words();
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
    grad[n * kShape.grad_pitch() + w] = Product::raw_word(value(0), Product::kNumbers > 1 ? value(1) : T{});
  }
}

// Lists where each word of places begins in the tile of the member, and which of its numbers exist.
template <class Product>
__device__ void list_places(const GradWeightArgs& a, int32_t y0, int32_t x0, WordTap* places) {
  constexpr int kWords = Product::kPlaces / Product::kNumbers;
  for (int32_t w = threadIdx.x; w < kWords; w += kConvThreads) {
    const int32_t place = w * Product::kNumbers, y = place >> a.tile_shift, x = place & ((1 << a.tile_shift) - 1);
    WordTap origin = {0, 0};
    if (y < a.tile_h && y0 + y < a.out_h && x0 + x < a.out_w) {
      origin.offset = (y * (a.tile.apart ? a.tile.kernel_rows : a.tile.stride) * a.tile.pitch + x * a.columns.stride) *
                      sizeof(typename Product::Word);
      origin.mask = Product::kNumbers == 1 || x0 + x + 1 < a.out_w ? 0xFFFFFFFF : 0xFFFF;
    }
    places[w] = origin;
  }
}

// A block sums its output channels by its taps over some of the tiles of all members.
//
// 1. List the offsets of the taps in a tile of a member.
// 2. For every tile: find its image and element; stage the tiles of the gradient and of the member; list the places;
//    add their products. The blocks of the first taps also sum the gradient itself, for the bias.
// 3. Add up the shares of the sums, and write them to `partial`.
// 4. Likewise the sums for the bias, to `partial_bias`.
template <class Product>
__global__ void __launch_bounds__(kConvThreads, 4) grad_weight_kernel(const __grid_constant__ GradWeightArgs a) {
  using T = typename Product::Pixel;
  using Word = typename Product::Word;
  using Sum = typename Product::Sum;
  constexpr GradWeightShape kShape = shape_of_grad_weight<Product>;
  constexpr int kWords = kShape.place_words(), kThreadsPerChannel = kConvThreads / Product::kChannels;
  const TileLayout& t = a.tile;
  const BlockPart part = BlockPart::of<Product>(a);
  const GradWeightMemory memory(kShape, a);
  auto* bytes = shared_memory<unsigned char>();
  auto* taps = reinterpret_cast<int32_t*>(bytes + memory.taps);
  auto* places = reinterpret_cast<WordTap*>(bytes + memory.places);
  auto* grad = reinterpret_cast<Word*>(bytes + memory.grad);
  auto* tile = reinterpret_cast<Word*>(bytes + memory.tile);

  // Stage 1.
  int32_t c, row, column;
  for (int32_t k = threadIdx.x; k < kTaps; k += kConvThreads) {
    int32_t offset;
    taps[k] = part.tap(a, k, c, row, column, offset) ? offset * sizeof(Word) : 0;
  }
  Product product;
  Sum bias = 0;
  const bool sums_bias = a.partial_bias && part.first_c == 0 && part.first_row == 0 && part.cut == 0;
  const int32_t bias_channel = threadIdx.x / kThreadsPerChannel;
  // Stage 2.
  for (int64_t unit = part.split; unit < a.units; unit += a.splits) {
    int32_t rest = static_cast<int32_t>(unit);
    const int32_t x0 = a.tiles_x.split(rest) << a.tile_shift, y0 = a.tiles_y.split(rest) * a.tile_h;
    const int32_t b = a.by_batch.split(rest), e = rest;
    const int32_t i0 = y0 * a.rows.stride - a.rows.padding + part.first_row * a.rows.dilation;
    const int32_t j0 = x0 * a.columns.stride - a.columns.padding;
    __syncthreads();  // until all threads have read the tiles before
    stage_grad<Product>(a, part.channel, int64_t(e) * a.batch + b, y0, x0, grad);
    list_places<Product>(a, y0, x0, places);
    stage<Product>(t, source_of<T>(a, a.members[e], b), part.first_c, a.in_channels, i0, j0, tile);
    __syncthreads();
    product.add(grad, kShape.grad_pitch(), places, kWords, taps, tile);
    if (sums_bias)
      for (int32_t w = threadIdx.x % kThreadsPerChannel; w < kWords; w += kThreadsPerChannel)
        bias += Product::total(grad[bias_channel * kShape.grad_pitch() + w]);
  }

  // Stage 3: add up the shares of a sum, in their order.
  __syncthreads();
  Sum* shares = shared_memory<Sum>();
  constexpr int kSize = Product::kChannels * kTaps;
  product.each([&](int share, int n, int k, Sum v) { shares[share * kSize + n * kTaps + k] = v; });
  __syncthreads();
  Sum* partial = static_cast<Sum*>(a.partial);
  for (int32_t k = threadIdx.x; k < kSize; k += kConvThreads) {
    const int32_t n = part.channel + k / kTaps;
    int32_t offset;
    if (!part.tap(a, k % kTaps, c, row, column, offset) || n >= a.out_channels) continue;
    Sum total = shares[k];
    for (int share = 1; share < Product::kShares; ++share) total += shares[share * kSize + k];
    const int64_t channel = (int64_t(part.split) * a.out_channels + n) * a.in_channels + c;
    partial[(channel * a.rows.kernel + row) * a.columns.kernel + column] = total;
  }
  if (!sums_bias) return;
  // Stage 4: the threads of a channel add up their sums.
#pragma unroll
  for (int lanes = kThreadsPerChannel / 2; lanes > 0; lanes /= 2) bias += __shfl_xor_sync(0xFFFFFFFF, bias, lanes);
  if (threadIdx.x % kThreadsPerChannel == 0 && part.channel + bias_channel < a.out_channels)
    static_cast<Sum*>(a.partial_bias)[int64_t(part.split) * a.out_channels + part.channel + bias_channel] = bias;
}

}  // namespace

void launch_orbit_conv2d_grad_weight(const GradWeightPlan& plan, Stream stream) {
  visit_grad_weight(plan.args.math, plan.args.out_channels, [&]<class Product>(Product) {
    launch("orbit_conv2d: weight gradient", grad_weight_kernel<Product>, plan.blocks, kConvThreads, plan.shared_bytes,
           stream, plan.args);
  });
}

}  // namespace equifast::cuda
