// crop_resize: R · x · Cᵀ for each plane x, where the rows of R and of C have a few numbers other than 0 each. A task
// makes a band of rows of the output, of one plane or of all planes whose channels are interleaved:
//
// 1. The vertical pass makes rows of R · x, each a weighted sum of a few rows. All its loads are of whole vectors.
// 2. The horizontal pass multiplies by Cᵀ. Its rows are transposed, so that here too the sums are of whole vectors,
//    and the result is transposed back.
//
// The horizontal pass costs more for each row. So it comes first if the output has more rows than the input.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/permute.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// out[l] = Σ_k weight[k] · in[k · stride + l] for the values l of kVectors vectors. The terms are added in pairs, from
// both ends towards the middle, so that a mirrored sum has the same bits.
template <class Vector, int kVectors, class A>
inline void sum_vectors(const A* in, int64_t stride, const A* weight, int64_t count, A* out) {
  constexpr int64_t K = sizeof(Vector) / sizeof(A);
  Vector sum[kVectors] = {};
  int64_t k = 0, m = count - 1;
  for (; k < m; ++k, --m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sum[v] += weight[k] * *reinterpret_cast<const Vector*>(in + k * stride + v * K) +
                weight[m] * *reinterpret_cast<const Vector*>(in + m * stride + v * K);
  if (k == m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[v] += weight[k] * *reinterpret_cast<const Vector*>(in + k * stride + v * K);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Vector*>(out + v * K) = sum[v];
}

// The same for n values. The last vector moves back to fit, and makes some values twice.
template <class A>
inline void sum_rows(const A* in, int64_t stride, const A* weight, int64_t count, int64_t n, A* out) {
  using Vector = typename Tile<A>::Vector;
  constexpr int64_t K = Tile<A>::K;
  int64_t j = 0;
  for (; j + 4 * K <= n; j += 4 * K) sum_vectors<Vector, 4>(in + j, stride, weight, count, out + j);
  for (; j + K <= n; j += K) sum_vectors<Vector, 1>(in + j, stride, weight, count, out + j);
  if (j < n && n >= K) sum_vectors<Vector, 1>(in + n - K, stride, weight, count, out + n - K);
  else
    for (; j < n; ++j) sum_vectors<A, 1>(in + j, stride, weight, count, out + j);
}

// The distance between rows of n values in scratch memory. No two of sixteen rows begin in the same set of a cache,
// since the distance is an odd multiple of sixteen values.
inline int64_t pitch(int64_t n) { return (n + 15) / 32 * 32 + 16; }

template <class T>
class Resizer {
 public:
  using A = Acc<T>;

  explicit Resizer(const CropResizeArgs& args)
      : a_(args),
        width_(args.columns.columns * args.interleaved),
        in_pitch_(pitch(width_)),
        out_pitch_(pitch(args.columns.rows)),
        band_(kResizeRows * in_pitch_),
        transposed_(kResizeRows * in_pitch_),
        resized_(kResizeRows * out_pitch_) {}

  // Writes rows [i0, i1) of as many planes as are interleaved. `in` and `out` are the first pixels of the first plane.
  void write(const T* in, int64_t i0, int64_t i1, T* out) {
    if (a_.columns_first) write_columns_first(in, i0, i1, out);
    else write_rows_first(in, i0, i1, out);
  }

 private:
  void write_rows_first(const T* in, int64_t i0, int64_t i1, T* out) {
    const auto [r0, r1] = rows_read(i0, i1);
    const A* rows;
    int64_t stride;
    if constexpr (__is_same(T, A)) {
      rows = in + r0 * a_.in.h;
      stride = a_.in.h;
    } else {
      wide_.resize((r1 - r0) * in_pitch_);
      for (int64_t r = r0; r < r1; ++r) widen_row(in + r * a_.in.h, &wide_[(r - r0) * in_pitch_], width_);
      rows = wide_.data();
      stride = in_pitch_;
    }
    for (int64_t i = i0; i < i1; ++i)
      sum_rows(rows + (a_.rows.first[i] - r0) * stride, stride, weights(a_.rows, i), a_.rows.count(i), width_,
               band_.data() + (i - i0) * in_pitch_);
    lines_.resize(a_.interleaved * kResizeRows * out_pitch_);
    resize_band(lines_.data(), kResizeRows);
    for (int64_t c = 0; c < a_.interleaved; ++c)
      for (int64_t i = i0; i < i1; ++i)
        narrow_row(lines_.data() + (c * kResizeRows + i - i0) * out_pitch_, row(out, c, i), a_.columns.rows);
  }

  void write_columns_first(const T* in, int64_t i0, int64_t i1, T* out) {
    const auto [r0, r1] = rows_read(i0, i1);
    const int64_t plane_rows = (r1 - r0 + kResizeRows - 1) / kResizeRows * kResizeRows;
    lines_.resize(a_.interleaved * plane_rows * out_pitch_);
    for (int64_t r = r0; r < r1; r += kResizeRows) {
      for (int64_t k = r; k < smaller(r + kResizeRows, r1); ++k)
        widen_row(in + k * a_.in.h, band_.data() + (k - r) * in_pitch_, width_);
      resize_band(lines_.data() + (r - r0) * out_pitch_, plane_rows);
    }
    A* line = resized_.data();
    for (int64_t c = 0; c < a_.interleaved; ++c)
      for (int64_t i = i0; i < i1; ++i) {
        sum_rows(lines_.data() + (c * plane_rows + a_.rows.first[i] - r0) * out_pitch_, out_pitch_, weights(a_.rows, i),
                 a_.rows.count(i), a_.columns.rows, line);
        narrow_row(line, row(out, c, i), a_.columns.rows);
      }
  }

  // The horizontal pass: kResizeRows rows of band_ times Cᵀ give as many rows of out, for each interleaved channel.
  // Rows of out are out_pitch_ apart, and the channels plane_rows rows.
  void resize_band(A* out, int64_t plane_rows) {
    using Vector = typename Tile<A>::Vector;
    constexpr int kVectors = kResizeRows / Tile<A>::K;
    transpose(band_.data(), in_pitch_, kResizeRows, width_, transposed_.data(), kResizeRows);
    const int64_t step = a_.interleaved * kResizeRows;
    for (int64_t c = 0; c < a_.interleaved; ++c) {
      for (int64_t j = 0; j < a_.columns.rows; ++j)
        sum_vectors<Vector, kVectors>(&transposed_[a_.columns.first[j] * step + c * kResizeRows], step,
                                      weights(a_.columns, j), a_.columns.count(j), &resized_[j * kResizeRows]);
      transpose(resized_.data(), kResizeRows, a_.columns.rows, kResizeRows, out + c * plane_rows * out_pitch_,
                out_pitch_);
    }
  }

  // Transposes rows × columns values, rounded up to whole tiles.
  static void transpose(const A* in, int64_t in_step, int64_t rows, int64_t columns, A* out, int64_t out_step) {
    constexpr int64_t K = Tile<A>::K;
    for (int64_t r = 0; r < rows; r += K)
      for (int64_t c = 0; c < columns; c += K)
        Tile<A>::transpose(in + r * in_step + c, in_step, out + c * out_step + r, out_step);
  }

  struct Span {
    int64_t begin, end;
  };

  // The rows of the input that rows [i0, i1) of the output are sums of.
  Span rows_read(int64_t i0, int64_t i1) const {
    while (i0 < i1 && !a_.rows.count(i0)) ++i0;
    while (i0 < i1 && !a_.rows.count(i1 - 1)) --i1;
    if (i0 == i1) return {0, 0};
    return {a_.rows.first[i0], a_.rows.first[i1 - 1] + a_.rows.count(i1 - 1)};
  }

  static const A* weights(const BandMatrix& m, int64_t i) { return static_cast<const A*>(m.weight) + m.start[i]; }
  T* row(T* out, int64_t c, int64_t i) const { return out + (c * a_.rows.rows + i) * a_.columns.rows; }

  const CropResizeArgs& a_;
  const int64_t width_;  // values in a row of the input, with all interleaved channels
  const int64_t in_pitch_, out_pitch_;
  Buffer<A> band_;        // (kResizeRows, in_pitch_): what the horizontal pass begins with
  Buffer<A> transposed_;  // (in_pitch_, kResizeRows)
  Buffer<A> resized_;     // (out_pitch_, kResizeRows)
  Buffer<A> wide_;        // rows of the input in the accumulate type
  Buffer<A> lines_;       // rows after the horizontal pass
};

}  // namespace

// A task is (b, c or all interleaved channels, band of rows).
void crop_resize(const CropResizeArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    Resizer<T> resizer(a);
    const int64_t bands = a.bands(), blocks = a.C / a.interleaved;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i = task % bands * a.band, c = task / bands % blocks * a.interleaved, b = task / (bands * blocks);
      const T* in = static_cast<const T*>(a.in.data) + b * a.in.b + c * a.in.c;
      T* out = static_cast<T*>(a.out) + (b * a.C + c) * a.rows.rows * a.columns.rows;
      resizer.write(in, i, smaller(i + a.band, a.rows.rows), out);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
