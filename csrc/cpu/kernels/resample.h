// Resampled images, a band of rows at a time: ρ(g)·S x, where S moves the pixels by an element's action and ρ(g) acts
// on the channels. orbit, act, orbit_average, orbit_inner and orbit_conv2d are loops around this one primitive.
#pragma once

#include "cpu/kernels/interpolate.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/permute.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

// Rows of scratch at a time. A band is as high as the largest tile of a transpose, and it stays in the L1 cache.
constexpr int64_t kBand = 16;

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
        pixels_(kBand * resample.W),
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
    bases_.resize(r_.bases * r_.channel_block * plane());
    for (int64_t k = 0; k < r_.bases; ++k) interpolate_base(in, s, k, 0, r_.H, base_plane(k, 0), plane());
  }

  // Makes rows [i0, i1) of base image k, at most kBand of them: (count, i1 − i0, W) in the accumulate type, in scratch.
  const A* base_band(const Images& in, const Site& s, int64_t k, int64_t i0, int64_t i1) {
    interpolate_base(in, s, k, i0, i1, band_.data(), (i1 - i0) * r_.W);
    return band_.data();
  }

  // Makes rows [i0, i1) of element e, at most kBand of them: (count, i1 − i0, W) in the accumulate type, in scratch.
  A* band(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1) {
    const int64_t n = (i1 - i0) * r_.W;
    if (interpolates_source(e)) {
      Interpolator<A>& interpolator = interpolator_of(e);
      for (int64_t i = i0; i < i1; ++i) {
        interpolator.row(i);
        for (int64_t c = 0; c < s.count; ++c)
          interpolator.apply(source(in, s, channel(e, s.c + c)), in.h, band_.data() + c * n + (i - i0) * r_.W);
      }
    } else {
      for (int64_t c = 0; c < s.count; ++c) {
        A* out = band_.data() + c * n;
        if (interpolated(e)) {
          permute_rows(code(e), base_plane(r_.base[e], c), r_.W, r_.H, r_.W, i0, i1, out, r_.W);
        } else if constexpr (__is_same(T, A)) {
          permute_rows(code(e), source(in, s, channel(e, s.c + c)), in.h, r_.H, r_.W, i0, i1, out, r_.W);
        } else {
          permute_rows(code(e), source(in, s, channel(e, s.c + c)), in.h, r_.H, r_.W, i0, i1, pixels_.data(), r_.W);
          widen_row(pixels_.data(), out, n);
        }
      }
    }
    if (r_.mixing) mix(e, s.count, n);
    return band_.data();
  }

  // Writes rows [i0, i1) of element e, times the weight if there is one, to contiguous planes (count, H, W) at out.
  void write(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1, const A* weight, T* out) {
    if (!weight && !r_.mixing && write_without_scratch(in, s, e, i0, i1, out)) return;
    for (int64_t i = i0; i < i1; i += kBand) {
      const int64_t stop = smaller(i + kBand, i1), n = (stop - i) * r_.W;
      A* rows = band(in, s, e, i, stop);
      if (weight)
        for (int64_t k = 0; k < s.count * n; ++k) rows[k] *= *weight;
      for (int64_t c = 0; c < s.count; ++c) narrow_row(rows + c * n, out + c * plane() + i * r_.W, n);
    }
  }

  int64_t plane() const { return r_.H * r_.W; }

 private:
  int code(int64_t e) const { return adjoint_ ? inverse_code(r_.actions[e].code) : r_.actions[e].code; }
  bool interpolated(int64_t e) const { return !adjoint_ && r_.base[e] >= 0; }
  bool interpolates_source(int64_t e) const { return interpolated(e) && !r_.reuse_bases; }
  A* base_plane(int64_t k, int64_t c) const { return bases_.data() + (k * r_.channel_block + c) * plane(); }

  int64_t channel(int64_t e, int64_t c) const {
    if (!r_.permutation) return c;
    return c / r_.permutation_size * r_.permutation_size +
           r_.permutation[e * r_.permutation_size + c % r_.permutation_size];
  }
  static const T* source(const Images& in, const Site& s, int64_t c) {
    return static_cast<const T*>(in.data) + s.e * in.e + s.b * in.b + c * in.c;
  }
  // Of an element, or of a base image.
  Interpolator<A>& interpolator_of(int64_t e) { return interpolator(e, r_.actions[e].matrix()); }
  Interpolator<A>& interpolator_of_base(int64_t k) {
    int64_t e = 0;
    while (r_.base[e] != k) ++e;
    return interpolator(r_.order + k, r_.actions[e].base);
  }
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
      for (int64_t c = 0; c < s.count; ++c)
        interpolator.apply(source(in, s, s.c + c), in.h, out + c * channel_step + (i - i0) * r_.W);
    }
  }

  // As write, where nothing has to be done to the pixels but to move them; false where scratch is needed.
  bool write_without_scratch(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1, T* out) {
    if (interpolates_source(e)) {
      if constexpr (__is_same(T, A)) {
        Interpolator<A>& interpolator = interpolator_of(e);
        for (int64_t i = i0; i < i1; ++i) {
          interpolator.row(i);
          for (int64_t c = 0; c < s.count; ++c)
            interpolator.apply(source(in, s, channel(e, s.c + c)), in.h, out + c * plane() + i * r_.W);
        }
        return true;
      }
      return false;
    }
    for (int64_t c = 0; c < s.count; ++c) {
      T* to = out + c * plane() + i0 * r_.W;
      if (!interpolated(e))
        permute_rows(code(e), source(in, s, channel(e, s.c + c)), in.h, r_.H, r_.W, i0, i1, to, r_.W, r_.around_cache);
      else if constexpr (__is_same(T, A))
        permute_rows(code(e), base_plane(r_.base[e], c), r_.W, r_.H, r_.W, i0, i1, to, r_.W, r_.around_cache);
      else return false;
    }
    return true;
  }

  // Mixes the pairs of channels of a band; a channel has n values there.
  void mix(int64_t e, int64_t count, int64_t n) {
    const double* m = r_.mixing + 4 * e;
    const A xx = m[0], xy = m[1], yx = m[2], yy = m[3];
    for (int64_t c = 0; c < count; c += 2) {
      A *u = band_.data() + c * n, *v = u + n;
      for (int64_t k = 0; k < n; ++k) {
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
  Buffer<A> band_, bases_;
};

// Where a task reads for one block of channels.
inline Site site_of(const Resample& r, int64_t e, int64_t b, int64_t block) {
  return {e, b, block * r.channel_block, smaller(r.channel_block, r.C - block * r.channel_block)};
}

}  // namespace
}  // namespace equifast::cpu
