// orbit_conv2d of bfloat16 images: as in orbit_conv2d.cpp, each member of the orbit is made in a core's own cache and
// convolved from there, by one layer or by several. Products are those of AMX, or of float32, in which a product of two
// bfloat16 numbers is exact. Sums are in float32.
#include "cpu/kernels/conv2d_amx.h"
#include "cpu/kernels/layers.h"
#include "cpu/kernels/members.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// The layers in float32. Only what the last one returns is rounded.
class WideLayers {
 public:
  explicit WideLayers(const OrbitConv2dBfloat16Args& a)
      : a_(a.layers), layers_(a.layers), frame_(frame_values()), out_(a.layers.output_values()) {
    std::memset(frame_.data(), 0, frame_values() * sizeof(float));
  }

  void run(const bfloat16* member, bfloat16* out) {
    const Conv2d& k = a_.conv;
    const int64_t H = k.H - 2 * a_.padding_h, W = k.W - 2 * a_.padding_w;
    for (int64_t c = 0; c < k.C; ++c)
      for (int64_t i = 0; i < H; ++i)
        widen_row(member + (c * H + i) * W, &frame_[(c * k.H + a_.padding_h + i) * k.W + a_.padding_w], W);
    layers_.run(frame_.data(), out_.data());
    narrow_row(out_.data(), out, a_.output_values());
  }

 private:
  int64_t frame_values() const { return a_.conv.C * a_.conv.H * a_.conv.W; }

  const OrbitConv2dArgs& a_;
  Layers layers_;
  Buffer<float> frame_, out_;
};

#ifdef EQUIFAST_AMX
// The layers by AMX. What lies between two of them is rounded, and stays in scratch memory.
class TiledLayers {
 public:
  explicit TiledLayers(const OrbitConv2dBfloat16Args& a) : count_(1 + a.layers.followers), layers_(count_) {
    const OrbitConv2dArgs& first = a.layers;
    layers_[0] = {first.conv, a.tiles[0], first.padding_h, first.padding_w};
    for (int64_t l = 1; l < count_; ++l) {
      const FollowingConv2d& next = first.following[l - 1];
      layers_[l] = {next.conv, a.tiles[l], next.padding_h, next.padding_w};
    }
    int64_t copied = 0, summed = 0, framed = 0;
    const auto grow = [](int64_t& size, int64_t to) { size = to > size ? to : size; };
    for (int64_t l = 0; l < count_; ++l) {
      const Conv2dTiles& t = layers_[l];
      grow(copied, t.copied_values());
      grow(summed, sum_rows(t) * t.conv.out_w * kBlock);
      framed += t.frame_values();
    }
    framed += kRun;  // copies are made from whole lines, of which the last may reach beyond its frame
    copies_.resize(copied), sums_.resize(summed), narrow_.resize(summed), frames_.resize(framed);
    std::memset(frames_.data(), 0, framed * sizeof(uint16_t));
  }

  void run(const bfloat16* member, bfloat16* out) {
    const TileScratch scratch = {copies_.data(), sums_.data(), narrow_.data()};
    uint16_t* frame = frames_.data();
    fill_frame(layers_[0], reinterpret_cast<const uint16_t*>(member), frame);
    for (int64_t l = 0; l < count_; ++l) {
      const Conv2dTiles& t = layers_[l];
      uint16_t* next = frame + t.frame_values();
      const bool last = l + 1 == count_;
      conv2d_amx(t, frame, scratch, last ? output(reinterpret_cast<uint16_t*>(out)) : inside(layers_[l + 1], next));
      frame = next;
    }
  }

 private:
  // The place of the output of the last layer.
  TileOutput output(uint16_t* out) const {
    const Conv2d& k = layers_[count_ - 1].conv;
    if (k.channels_last) return {out, k.out_w * k.out_channels, k.out_channels, 1};
    return {out, k.out_w, 1, k.out_h * k.out_w};
  }

  // The place in a layer's frame of the output of the layer before.
  static TileOutput inside(const Conv2dTiles& t, uint16_t* frame) {
    const int64_t pixel = t.pixel_values();
    return {frame + t.padding_h * t.frame_row() + t.padding_w * pixel, t.frame_row(), pixel, 1};
  }

  const int64_t count_;
  Buffer<Conv2dTiles> layers_;
  Buffer<uint16_t> copies_, narrow_, frames_;  // frames_: the input of each layer, one after the other
  Buffer<float> sums_;
};
#endif

template <class Network>
void convolve_members(const OrbitConv2dBfloat16Args& a, int64_t begin, int64_t end) {
  const Resample& r = a.layers.resample;
  Members<bfloat16> members(a.layers);
  Network layers(a);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task % r.B, first = task / r.B;
    members.prepare(b);
    for (int64_t e = first; e < (r.all_elements ? r.order : first + 1); ++e)
      layers.run(members.plain(e), static_cast<bfloat16*>(a.out) + (e * r.B + b) * a.layers.output_values());
  }
}

}  // namespace

// A task is (b) if it makes all elements, else (e, b).
void orbit_conv2d_bfloat16(const OrbitConv2dBfloat16Args& a, int64_t begin, int64_t end) {
#ifdef EQUIFAST_AMX
  if (a.tiles) return convolve_members<TiledLayers>(a, begin, end);
#endif
  convolve_members<WideLayers>(a, begin, end);
}

}  // namespace equifast::cpu::EQUIFAST_ISA
