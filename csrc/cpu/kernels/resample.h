// Resampled images, a band of rows at a time: ρ(g)·S x, where S moves the pixels by an element's action and ρ(g) acts
// on the channels. orbit, act, orbit_average, orbit_inner and orbit_conv2d are loops around this one primitive.
#pragma once

#include "cpu/kernels/interpolate.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/permute_pixels.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

// Rows of scratch at a time. A band is as high as the largest tile of a transpose, and it stays in the L1 cache.
constexpr int64_t kBand = 16;

// Images of a task up to this size stay in the L2 cache until they are interpolated.
constexpr int64_t kFetchBytes = 1 << 20;

// Where a task reads: channels [c, c + count) of image (e, b).
struct Site {
  int64_t e, b, c, count;
};

template <class T>
class Resampler {
 public:
  using A = Acc<T>;

  // The transpose of a resample begins with the inverse permutation, which is all that runs here if `adjoint`; the
  // footprints do the rest.
  Resampler(const Resample& resample, bool adjoint)
      : r_(resample),
        adjoint_(adjoint),
        interpolators_(new Interpolator<A>*[resample.order + resample.bases]()),
        pixels_(kBand * row_values()),
        band_(resample.channel_block * kBand * resample.W) {}
  ~Resampler() {
    for (int64_t k = 0; k < r_.order + r_.bases; ++k) delete interpolators_[k];
    delete[] interpolators_;
  }
  Resampler(const Resampler&) = delete;
  Resampler& operator=(const Resampler&) = delete;

  // Interpolates an image once for each distinct base. Until the next call, all elements read these base images.
  void prepare(const Images& in, const Site& s) {
    if (!r_.bases) return;
    fetch(in, s);
    bases_.resize(r_.bases * r_.channel_block * r_.H * r_.W);
    for (int64_t k = 0; k < r_.bases; ++k) interpolate_base(in, s, k, 0, r_.H, base_plane(k, 0), plane());
  }

  // Makes rows [i0, i1) of base image k, at most kBand of them: (count, i1 − i0, W) in the accumulate type, in scratch.
  // Not for interleaved channels.
  const A* base_band(const Images& in, const Site& s, int64_t k, int64_t i0, int64_t i1) {
    interpolate_base(in, s, k, i0, i1, band_.data(), (i1 - i0) * r_.W);
    return band_.data();
  }

  // Makes rows [i0, i1) of element e, at most kBand of them: (count, i1 − i0, W) in the accumulate type, in scratch; or
  // (i1 − i0, W, C), where channels are interleaved.
  A* band(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1) {
    const int64_t n = (i1 - i0) * row_values();
    if (interpolates_source(e)) {
      interpolate_source(in, s, e, i0, i1, band_.data(), n);
    } else {
      for (int64_t c = 0; c < parts(s); ++c) {
        A* out = band_.data() + c * n;
        if (interpolated(e)) {
          permute_base(e, c, i0, i1, out);
        } else if constexpr (__is_same(T, A)) {
          permute_source(in, s, e, c, i0, i1, out);
        } else {
          permute_source(in, s, e, c, i0, i1, pixels_.data());
          widen_row(pixels_.data(), out, n);
        }
      }
    }
    if (r_.interleaved > 1 && r_.permutation) permute_channels(e, n);
    if (r_.mixing) mix(e, s.count, n);
    return band_.data();
  }

  // Writes rows [i0, i1) of element e, times the weight if there is one, to contiguous planes (count, H, W) at out; or
  // to contiguous (H, W, C), where channels are interleaved.
  void write(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1, const A* weight, T* out) {
    if (interpolates_source(e)) fetch(in, s);
    if (!weight && !r_.mixing && write_without_scratch(in, s, e, i0, i1, out)) return;
    for (int64_t i = i0; i < i1; i += kBand) {
      const int64_t stop = smaller(i + kBand, i1), n = (stop - i) * row_values();
      A* rows = band(in, s, e, i, stop);
      if (weight)
        for (int64_t k = 0; k < parts(s) * n; ++k) rows[k] *= *weight;
      for (int64_t c = 0; c < parts(s); ++c) narrow_row(rows + c * n, out + c * plane() + i * row_values(), n);
    }
  }

  // What interpolates base image k.
  Interpolator<A>& interpolator_of_base(int64_t k) {
    int64_t e = 0;
    while (r_.base[e] != k) ++e;
    return interpolator(r_.order + k, r_.actions[e].base);
  }

  // The channels of a task are so many contiguous parts of its images: planes, or all the pixels if they are
  // interleaved.
  int64_t parts(const Site& s) const { return s.count / r_.interleaved; }
  // The values of a part, and of a row of it.
  int64_t plane() const { return r_.H * row_values(); }
  int64_t row_values() const { return r_.W * r_.interleaved; }

 private:
  int code(int64_t e) const { return adjoint_ ? inverse_code(r_.actions[e].code) : r_.actions[e].code; }
  bool interpolated(int64_t e) const { return !adjoint_ && r_.base[e] >= 0; }
  bool interpolates_source(int64_t e) const { return interpolated(e) && !r_.reuse_bases; }
  A* base_plane(int64_t k, int64_t c) const {
    return bases_.data() + (k * (r_.channel_block / r_.interleaved) + c) * plane();
  }

  // The channel that is channel c of element e.
  int64_t channel(int64_t e, int64_t c) const {
    if (!r_.permutation) return c;
    return c / r_.permutation_size * r_.permutation_size +
           r_.permutation[e * r_.permutation_size + c % r_.permutation_size];
  }
  // Where part c of element e is read.
  const T* source_of(const Images& in, const Site& s, int64_t e, int64_t c) const {
    return source(in, s, r_.interleaved > 1 ? 0 : channel(e, s.c + c));
  }
  static const T* source(const Images& in, const Site& s, int64_t c) {
    return static_cast<const T*>(in.data) + s.e * in.e + s.b * in.b + c * in.c;
  }
  // Asks for the images of a task in the order of their addresses, in which memory delivers best. The rows of a rotated
  // image go across them, which no processor foresees: without this, `act` takes 1.4 times as long, and 1.6 times in
  // channels_last (64×3×224×224 on one core). GCC drops calls of functions that do nothing but fetch, so this is
  // inlined.
  [[gnu::always_inline]] inline void fetch(const Images& in, const Site& s) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    if (s.count * r_.H * r_.W * int64_t(sizeof(T)) > kFetchBytes) return;
    for (int64_t c = 0; c < parts(s); ++c)
      for (int64_t i = 0; i < r_.H; ++i)
        for (int64_t j = 0; j < row_values(); j += kLine)
          __builtin_prefetch(source(in, s, s.c + c) + i * in.h + j, 0, 2);
  }

  Interpolator<A>& interpolator_of(int64_t e) { return interpolator(e, r_.actions[e].matrix()); }
  Interpolator<A>& interpolator(int64_t k, const Matrix& matrix) {
    if (!interpolators_[k]) interpolators_[k] = new Interpolator<A>(matrix, r_.H, r_.W, r_.border);
    return *interpolators_[k];
  }

  // Writes rows [i0, i1) of base image k to out, where the rows of a channel are contiguous.
  void interpolate_base(const Images& in, const Site& s, int64_t k, int64_t i0, int64_t i1, A* out,
                        int64_t channel_step) {
    Interpolator<A>& interpolator = interpolator_of_base(k);
    for (int64_t i = i0; i < i1; ++i) {
      interpolator.row(i);
      for (int64_t c = 0; c < parts(s); ++c)
        interpolate(interpolator, source(in, s, s.c + c), in, out + c * channel_step + (i - i0) * row_values());
    }
  }

  // Writes rows [i0, i1) of element e to out, where parts are part_step apart.
  void interpolate_source(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1, A* out,
                          int64_t part_step) {
    Interpolator<A>& interpolator = interpolator_of(e);
    for (int64_t i = i0; i < i1; ++i) {
      interpolator.row(i);
      for (int64_t c = 0; c < parts(s); ++c)
        interpolate(interpolator, source_of(in, s, e, c), in, out + c * part_step + (i - i0) * row_values());
    }
  }

  // Interpolates one row of a part.
  void interpolate(const Interpolator<A>& interpolator, const T* source, const Images& in, A* out) const {
    r_.interleaved > 1 ? interpolator.apply_pixels(source, in.h, in.w, r_.interleaved, out)
                       : interpolator.apply(source, in.h, out);
  }

  // Moves the pixels of part c of the source, or of its base image, to rows [i0, i1) of element e.
  void permute_source(const Images& in, const Site& s, int64_t e, int64_t c, int64_t i0, int64_t i1, T* out,
                      bool around = false) const {
    permute(e, source_of(in, s, e, c), in.h, in.w, i0, i1, out, around);
  }
  void permute_base(int64_t e, int64_t c, int64_t i0, int64_t i1, A* out, bool around = false) const {
    permute(e, base_plane(r_.base[e], c), row_values(), r_.interleaved, i0, i1, out, around);
  }
  template <class Pixel>
  void permute(int64_t e, const Pixel* from, int64_t stride, int64_t step, int64_t i0, int64_t i1, Pixel* out,
               bool around) const {
    r_.interleaved > 1 ? permute_pixels(code(e), from, stride, step, r_.H, r_.W, r_.interleaved, i0, i1, out)
                       : permute_rows(code(e), from, stride, r_.H, r_.W, i0, i1, out, r_.W, around);
  }

  // As write, where nothing has to be done to the pixels but to move them; false where scratch is needed.
  bool write_without_scratch(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1, T* out) {
    if (r_.interleaved > 1 && r_.permutation) return false;
    if (interpolated(e) && !__is_same(T, A)) return false;
    if (interpolates_source(e)) {
      if constexpr (__is_same(T, A)) interpolate_source(in, s, e, i0, i1, out + i0 * row_values(), plane());
      return true;
    }
    for (int64_t c = 0; c < parts(s); ++c) {
      T* to = out + c * plane();
      if (r_.interleaved == 1 || !r_.around_cache) {
        permute_part(in, s, e, c, i0, i1, to + i0 * row_values());
        continue;
      }
      // A line of the output has parts of many pixels, so it is first made in scratch.
      for (int64_t i = i0; i < i1; i += kBand) {
        const int64_t stop = smaller(i + kBand, i1);
        permute_part(in, s, e, c, i, stop, pixels_.data());
        copy_around(pixels_.data(), to + i * row_values(), (stop - i) * row_values());
      }
    }
    return true;
  }

  // Moves the pixels of part c, of the source or of a base image, to rows [i0, i1) of element e.
  void permute_part(const Images& in, const Site& s, int64_t e, int64_t c, int64_t i0, int64_t i1, T* out) const {
    if (!interpolated(e)) permute_source(in, s, e, c, i0, i1, out, r_.around_cache);
    else if constexpr (__is_same(T, A)) permute_base(e, c, i0, i1, out, r_.around_cache);
  }

  // Permutes the channels of a band of n values, where they are interleaved.
  void permute_channels(int64_t e, int64_t n) {
    const int64_t C = r_.interleaved;
    channels_.resize(C);
    pixel_.resize(C);
    for (int64_t c = 0; c < C; ++c) channels_[c] = channel(e, c);
    for (A* pixel = band_.data(); pixel < band_.data() + n; pixel += C) {
      std::memcpy(pixel_.data(), pixel, C * sizeof(A));
      for (int64_t c = 0; c < C; ++c) pixel[c] = pixel_[channels_[c]];
    }
  }

  // Mixes the pairs of channels of a band, a part of which has n values. Values of a channel are `step` apart.
  void mix(int64_t e, int64_t count, int64_t n) {
    const double* m = r_.mixing + 4 * e;
    const A xx = m[0], xy = m[1], yx = m[2], yy = m[3];
    const int64_t step = r_.interleaved, pixels = n / step, pair = step > 1 ? 1 : n;
    for (int64_t c = 0; c < count; c += 2) {
      A *u = band_.data() + c * pair, *v = u + pair;
      for (int64_t k = 0; k < pixels * step; k += step) {
        const A a = u[k], b = v[k];
        u[k] = xx * a + xy * b;
        v[k] = yx * a + yy * b;
      }
    }
  }

  const Resample& r_;
  bool adjoint_;
  Interpolator<A>** interpolators_;  // of the elements, then of the base images; made when first needed
  Buffer<T> pixels_;
  Buffer<A> band_, bases_, pixel_;
  Buffer<int64_t> channels_;
};

// Where a task reads for one block of channels.
inline Site site_of(const Resample& r, int64_t e, int64_t b, int64_t block) {
  return {e, b, block * r.channel_block, smaller(r.channel_block, r.C - block * r.channel_block)};
}

}  // namespace
}  // namespace equifast::cpu
