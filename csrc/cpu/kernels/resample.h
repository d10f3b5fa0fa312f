// Bands of ρ(g)·S x: the one primitive under orbit, act, orbit_average and orbit_inner.
#pragma once

#include "cpu/kernels/interpolate.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/permute.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

constexpr int64_t kBand = 16;  // rows of scratch at a time: one tile of a transpose, and a band stays in L1

// Where a task reads: image e·b of a batch, and its channels [c, c + count).
struct Site {
  int64_t e, b, c, count;
};

template <class T>
class Sampler {
 public:
  using A = Acc<T>;

  // In an adjoint warp only the permutation runs here, the inverse one; footprints do the rest.
  Sampler(const Warp& warp, bool adjoint)
      : w_(warp),
        adjoint_(adjoint),
        interpolators_(new Interpolator<A>*[warp.order]()),
        pixels_(kBand * warp.W),
        band_(warp.group * kBand * warp.W) {}
  ~Sampler() {
    for (int64_t e = 0; e < w_.order; ++e) delete interpolators_[e];
    delete[] interpolators_;
  }
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // Interpolates every distinct base of one image once; until the next call, all elements read these.
  void prepare(const Images& in, const Site& s) {
    if (!w_.bases) return;
    bases_.resize(w_.bases * w_.group * plane());
    for (int64_t k = 0; k < w_.bases; ++k) {
      int64_t e = 0;
      while (w_.base[e] != k) ++e;
      Interpolator<A> interpolator(w_.actions[e].base, w_.H, w_.W, w_.border);
      for (int64_t i = 0; i < w_.H; ++i) {
        interpolator.row(i);
        for (int64_t c = 0; c < s.count; ++c)
          interpolator.apply(source(in, s, s.c + c), in.h, base_plane(k, c) + i * w_.W);
      }
    }
  }

  // Rows [i0, i1) of element e in the accumulate type, (count, i1 − i0, W) in scratch; at most kBand rows.
  A* band(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1) {
    const int64_t n = (i1 - i0) * w_.W;
    if (direct(e)) {
      Interpolator<A>& interpolator = interpolator_of(e);
      for (int64_t i = i0; i < i1; ++i) {
        interpolator.row(i);
        for (int64_t c = 0; c < s.count; ++c)
          interpolator.apply(source(in, s, channel(e, s.c + c)), in.h, band_.data() + c * n + (i - i0) * w_.W);
      }
    } else {
      for (int64_t c = 0; c < s.count; ++c) {
        A* out = band_.data() + c * n;
        if (interpolated(e)) {
          permute_rows(code(e), base_plane(w_.base[e], c), w_.W, w_.H, w_.W, i0, i1, out, w_.W);
        } else if constexpr (__is_same(T, A)) {
          permute_rows(code(e), source(in, s, channel(e, s.c + c)), in.h, w_.H, w_.W, i0, i1, out, w_.W);
        } else {
          permute_rows(code(e), source(in, s, channel(e, s.c + c)), in.h, w_.H, w_.W, i0, i1, pixels_.data(), w_.W);
          widen_row(pixels_.data(), out, n);
        }
      }
    }
    if (w_.mixing) mix(e, s.count, n);
    return band_.data();
  }

  // Rows [i0, i1) of element e times weight, to dense planes of pixels at out (whose row 0 is row 0 of the image).
  void write(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1, const A* weight, T* out) {
    if (!weight && !w_.mixing && write_directly(in, s, e, i0, i1, out)) return;
    for (int64_t i = i0; i < i1; i += kBand) {
      const int64_t stop = smaller(i + kBand, i1), n = (stop - i) * w_.W;
      A* rows = band(in, s, e, i, stop);
      if (weight)
        for (int64_t k = 0; k < s.count * n; ++k) rows[k] *= *weight;
      for (int64_t c = 0; c < s.count; ++c) narrow_row(rows + c * n, out + c * plane() + i * w_.W, n);
    }
  }

  int64_t plane() const { return w_.H * w_.W; }

 private:
  int code(int64_t e) const { return adjoint_ ? inverse_code(w_.actions[e].code) : w_.actions[e].code; }
  bool interpolated(int64_t e) const { return !adjoint_ && w_.base[e] >= 0; }
  bool direct(int64_t e) const { return interpolated(e) && !w_.reuse; }
  A* base_plane(int64_t k, int64_t c) const { return bases_.data() + (k * w_.group + c) * plane(); }

  int64_t channel(int64_t e, int64_t c) const {
    if (!w_.permutation) return c;
    return c / w_.block * w_.block + w_.permutation[e * w_.block + c % w_.block];
  }
  static const T* source(const Images& in, const Site& s, int64_t c) {
    return static_cast<const T*>(in.data) + s.e * in.e + s.b * in.b + c * in.c;
  }
  Interpolator<A>& interpolator_of(int64_t e) {
    if (!interpolators_[e]) interpolators_[e] = new Interpolator<A>(w_.actions[e].matrix(), w_.H, w_.W, w_.border);
    return *interpolators_[e];
  }

  bool write_directly(const Images& in, const Site& s, int64_t e, int64_t i0, int64_t i1, T* out) {
    if (direct(e)) {
      if constexpr (__is_same(T, A)) {
        Interpolator<A>& interpolator = interpolator_of(e);
        for (int64_t i = i0; i < i1; ++i) {
          interpolator.row(i);
          for (int64_t c = 0; c < s.count; ++c)
            interpolator.apply(source(in, s, channel(e, s.c + c)), in.h, out + c * plane() + i * w_.W);
        }
        return true;
      }
      return false;
    }
    for (int64_t c = 0; c < s.count; ++c) {
      T* to = out + c * plane() + i0 * w_.W;
      if (!interpolated(e))
        permute_rows(code(e), source(in, s, channel(e, s.c + c)), in.h, w_.H, w_.W, i0, i1, to, w_.W);
      else if constexpr (__is_same(T, A))
        permute_rows(code(e), base_plane(w_.base[e], c), w_.W, w_.H, w_.W, i0, i1, to, w_.W);
      else return false;
    }
    return true;
  }

  void mix(int64_t e, int64_t count, int64_t n) {
    const double* m = w_.mixing + 4 * e;
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

  const Warp& w_;
  bool adjoint_;
  Interpolator<A>** interpolators_;  // by element, made when first needed
  Buffer<T> pixels_;
  Buffer<A> band_, bases_;
};

// Calls f(T{}) for the pixel type of a call.
template <class F>
void visit(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::float64: return f(double{});
    case Dtype::float32: return f(float{});
    case Dtype::float16: return f(half{});
    case Dtype::bfloat16: return f(bfloat16{});
  }
}

// Channels [c, c + count) of a task's group.
inline Site site_of(const Warp& w, int64_t e, int64_t b, int64_t group) {
  return {e, b, group * w.group, smaller(w.group, w.C - group * w.group)};
}

}  // namespace
}  // namespace equifast::cpu
