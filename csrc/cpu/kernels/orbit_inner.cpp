// orbit_inner: out[b, e] = ⟨ρ S_e u, v⟩. A strip of rows serves all elements while it is in the cache.
#include "cpu/kernels/gather.h"
#include "cpu/kernels/products.h"
#include "cpu/kernels/resample.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

static_assert(kTile == kBand);

template <class T>
class OrbitInner {
 public:
  using A = Acc<T>;

  explicit OrbitInner(const ResampleArgs& a)
      : r_(a.resample),
        resampler_(r_, false),
        dense_u_(a.in, r_),
        dense_v_(a.second, r_),
        sums_(r_.channel_block * r_.order * kTile),
        tile_(kTile * kTile),
        turned_(kTile * kTile) {}

  // Writes ⟨ρ S_e u, v⟩ for each channel and element, (count, E). Each channel has sums of its own, so that the total
  // does not depend on how the channels are cut into blocks.
  void run(Site s, double* out) {
    u_ = dense_u_.of(s.b);
    v_ = dense_v_.of(s.b);
    std::memset(out, 0, s.count * r_.order * sizeof(double));
    const bool members_are_made = r_.mixing || r_.permutation || u_.e;
    if (members_are_made && r_.reuse_bases) resampler_.prepare(u_, s);
    for (int64_t i = 0; i < r_.H; i += kTile) {
      std::memset(sums_.data(), 0, s.count * r_.order * kTile * sizeof(A));
      const int64_t stop = smaller(i + kTile, r_.H);
      if (members_are_made) with_members(s, i, stop);
      else with_bases(s, i, stop);
      for (int64_t k = 0; k < s.count * r_.order; ++k) out[k] += total(&sums_[k * kTile]);
    }
  }

 private:
  // Rows [i, stop) of each member, times the same rows of v.
  void with_members(Site s, int64_t i, int64_t stop) {
    for (s.e = 0; s.e < r_.order; ++s.e) {
      const A* rows = resampler_.band(u_, s, s.e, i, stop);
      for (int64_t c = 0; c < s.count; ++c, rows += (stop - i) * r_.W)
        for (int64_t j = 0; j < r_.W; j += kTile)
          add_products(Values<A>{rows + j, r_.W, stop - i, smaller(kTile, r_.W - j)},
                       Landing<T>{v_of(s, s.e, c) + i * v_.h + j, v_.h, false}, sums_of(c, s.e));
    }
  }

  // Rows [i, stop) of u and of each base image, times the pixels of v that the elements move them to.
  void with_bases(const Site& s, int64_t i, int64_t stop) {
    for (int64_t k = -1; k < r_.bases; ++k) {
      const A* rows = k < 0 ? nullptr : resampler_.base_band(u_, s, k, i, stop);
      for (int64_t c = 0; c < s.count; ++c) {
        const T* source = u_of(s, c) + i * u_.h;
        for (int64_t j = 0; j < r_.W; j += kTile) {
          const int64_t columns = smaller(kTile, r_.W - j);
          if (k < 0) fetch_ahead(s, c, i * r_.W + j * kTile);
          const Values<A> tile = k < 0 ? wide(source + j, u_.h, stop - i, columns)
                                       : Values<A>{rows + c * (stop - i) * r_.W + j, r_.W, stop - i, columns};
          add_elements(s, c, k, i, j, tile);
        }
      }
    }
  }

  // The products of one tile at (i, j), for all elements with this base.
  void add_elements(const Site& s, int64_t c, int64_t base, int64_t i, int64_t j, const Values<A>& tile) {
    Values<A> turned = {};
    for (int64_t e = 0; e < r_.order; ++e) {
      if (r_.base[e] != base) continue;
      const Permutation p(r_.actions[e].code);
      if (p.transposed && !turned.data) turned = transposed(tile, turned_.data());
      add_products(p.transposed ? turned : tile, landing(p, v_of(s, e, c), v_.h, r_.H, r_.W, i, j), sums_of(c, e));
    }
  }

  // The pixels themselves, or a copy of them in the accumulate type.
  Values<A> wide(const T* source, int64_t stride, int64_t rows, int64_t columns) {
    if constexpr (__is_same(T, A)) return {source, stride, rows, columns};
    for (int64_t i = 0; i < rows; ++i) widen_row(source + i * stride, &tile_[i * kTile], columns);
    return {tile_.data(), kTile, rows, columns};
  }

  // Asks for a part of the planes that the next task reads in place of this channel: as many pixels as a tile has. The
  // tiles of this channel ask for all of them, in the order of their addresses, in which memory delivers best. Without
  // that the sums of C4 take half as long again (64×3×224×224). GCC drops calls of functions that do nothing but fetch,
  // so these have to be inlined.
  [[gnu::always_inline]] inline void fetch_ahead(const Site& s, int64_t c, int64_t first) const {
    const bool same_image = s.c + s.count < r_.C;
    const Site next = {0, same_image ? s.b : s.b + 1, same_image ? s.c + s.count : 0, 0};
    if (next.b == r_.B || next.c + c >= r_.C) return;
    if (!dense_u_.gathers()) fetch(u_of(next, c), u_.h, first);
    if (!dense_v_.gathers()) fetch(v_of(next, 0, c), v_.h, first);
  }
  [[gnu::always_inline]] inline void fetch(const T* plane, int64_t stride, int64_t first) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    const int64_t last = (r_.H - 1) * stride + r_.W - 1;
    for (int64_t k = 0; k < kTile * kTile; k += kLine) __builtin_prefetch(plane + smaller(first + k, last), 0, 2);
  }

  const T* u_of(const Site& s, int64_t c) const {
    return static_cast<const T*>(u_.data) + s.b * u_.b + (s.c + c) * u_.c;
  }
  const T* v_of(const Site& s, int64_t e, int64_t c) const {
    return static_cast<const T*>(v_.data) + e * v_.e + s.b * v_.b + (s.c + c) * v_.c;
  }
  A* sums_of(int64_t c, int64_t e) const { return &sums_[(c * r_.order + e) * kTile]; }

  const Resample& r_;
  Resampler<T> resampler_;
  DenseRows<T> dense_u_, dense_v_;
  Images u_ = {}, v_ = {};  // those of a task, with dense rows
  Buffer<A> sums_;          // (channel block, E, kTile): of one strip, by columns of its tiles
  Buffer<A> tile_, turned_;
};

}  // namespace

// A task is (b, channel block).
void orbit_inner(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    const Resample& r = a.resample;
    OrbitInner<T> inner(a);
    for (int64_t task = begin; task < end; ++task) {
      const Site s = site_of(r, 0, task / r.channel_blocks(), task % r.channel_blocks());
      inner.run(s, static_cast<double*>(a.out) + (s.b * r.C + s.c) * r.order);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
