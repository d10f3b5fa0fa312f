// orbit_conv2d of bfloat16 images: as in orbit_conv2d.cpp, each member of the orbit is made in a core's own cache and
// convolved from there. Products are those of AMX, or of float32, in which a product of two bfloat16 numbers is exact.
// Sums are in float32.
#include "cpu/kernels/conv2d_amx.h"
#include "cpu/kernels/members.h"

namespace equifast::cpu::EQUIFAST_ISA {

// Defined in conv2d.cpp, which is compiled with other flags.
void conv2d(const Conv2d&, const float* image, float* row, float* out);

namespace {

// The convolution of one member in float32.
class WideConv2d {
 public:
  explicit WideConv2d(const Conv2dTiles& t)
      : t_(t),
        frame_(t.conv.C * t.conv.H * t.conv.W),
        row_(t.conv.out_w * kBlock),
        out_(t.conv.out_channels * t.conv.out_h * t.conv.out_w) {
    std::memset(frame_.data(), 0, t.conv.C * t.conv.H * t.conv.W * sizeof(float));
  }

  void run(const bfloat16* member, bfloat16* out) {
    const Conv2d& k = t_.conv;
    const int64_t H = k.H - 2 * t_.padding_h, W = k.W - 2 * t_.padding_w;
    for (int64_t c = 0; c < k.C; ++c)
      for (int64_t i = 0; i < H; ++i)
        widen_row(member + (c * H + i) * W, &frame_[(c * k.H + t_.padding_h + i) * k.W + t_.padding_w], W);
    conv2d(k, frame_.data(), row_.data(), out_.data());
    narrow_row(out_.data(), out, k.out_channels * k.out_h * k.out_w);
  }

 private:
  const Conv2dTiles& t_;
  Buffer<float> frame_, row_, out_;
};

#ifdef EQUIFAST_AMX
// The same by AMX.
class TiledConv2d {
 public:
  explicit TiledConv2d(const Conv2dTiles& t)
      : t_(t),
        frame_(t.frame_values()),
        runs_(t.run_values()),
        narrow_(t.conv.out_w * kBlock),
        row_(t.conv.out_w * kBlock),
        scratch_{frame_.data(), runs_.data(), row_.data(), narrow_.data()} {
    std::memset(frame_.data(), 0, t.frame_values() * sizeof(uint16_t));
  }

  void run(const bfloat16* member, bfloat16* out) {
    conv2d_amx(t_, reinterpret_cast<const uint16_t*>(member), scratch_, reinterpret_cast<uint16_t*>(out));
  }

 private:
  const Conv2dTiles& t_;
  Buffer<uint16_t> frame_, runs_, narrow_;
  Buffer<float> row_;
  TileScratch scratch_;
};
#endif

template <class Convolution>
void convolve_members(const OrbitConv2dBfloat16Args& a, int64_t begin, int64_t end) {
  const Resample& r = a.layer.resample;
  const Conv2d& k = a.layer.conv;
  const int64_t size = k.out_channels * k.out_h * k.out_w;
  const Conv2dTiles tiles = {k, a.tiles, a.layer.padding_h, a.layer.padding_w};
  Members<bfloat16> members(a.layer);
  Convolution convolution(tiles);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task % r.B, first = task / r.B;
    members.prepare(b);
    for (int64_t e = first; e < (r.all_elements ? r.order : first + 1); ++e)
      convolution.run(members.plain(e), static_cast<bfloat16*>(a.out) + (e * r.B + b) * size);
  }
}

}  // namespace

// A task is (b) if it makes all elements, else (e, b).
void orbit_conv2d_bfloat16(const OrbitConv2dBfloat16Args& a, int64_t begin, int64_t end) {
#ifdef EQUIFAST_AMX
  if (a.tiles) return convolve_members<TiledConv2d>(a, begin, end);
#endif
  convolve_members<WideConv2d>(a, begin, end);
}

}  // namespace equifast::cpu::EQUIFAST_ISA
