// Loops over images in which every channel has numbers of its own, whatever the layout.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

// About as many values are handled side by side, each in a lane of its own, whatever the number of channels. They fill
// several vectors of any instruction set, and their sums are the same on all of them.
constexpr int64_t kLanes = 256;

// `count` rows of neighbouring values in memory, one of each channel from `first` on.
struct Span {
  int64_t offset, count, first, channels;

  int64_t values() const { return count * channels; }
  int64_t lane_rows() const { return kLanes > channels ? smaller(kLanes / channels, count) : 1; }
  int64_t lanes() const { return lane_rows() * channels; }
};

// Calls f for the spans of a piece: one, or one for each channel where channels are not neighbours.
template <class F>
void each_span(const BatchNormArgs& a, int64_t piece, F f) {
  const int64_t image = piece / a.pieces(), start = piece % a.pieces() * a.piece;
  const int64_t count = smaller(a.piece, a.pixels - start);
  if (a.channels_last) return f(Span{(image * a.pixels + start) * a.C, count, 0, a.C});
  for (int64_t c = 0; c < a.C; ++c) f(Span{(image * a.C + c) * a.pixels + start, count, c, 1});
}

// Calls f(offset, n) for runs of values that fill the lanes; the last run may be shorter.
template <class F>
void each_run(const Span& s, F f) {
  const int64_t end = s.offset + s.values();
  for (int64_t i = s.offset; i < end; i += s.lanes()) f(i, smaller(s.lanes(), end - i));
}

// One number for each lane of a span.
template <class A>
class Lanes {
 public:
  explicit Lanes(const BatchNormArgs& a) : values_(a.C + kLanes) {}
  A* data() const { return values_.data(); }

  // Gives each lane the number of its channel.
  void repeat(const Span& s, const void* of_channels) {
    const A* from = static_cast<const A*>(of_channels) + s.first;
    const int64_t n = s.lanes();
    A* to = data();
    if (s.channels == 1) {
      for (int64_t i = 0; i < n; ++i) to[i] = *from;
    } else {
      for (int64_t i = 0; i < n; i += s.channels) std::memcpy(to + i, from, s.channels * sizeof(A));
    }
  }

  void clear(const Span& s) { std::memset(data(), 0, s.lanes() * sizeof(A)); }

  // Adds up the lanes of each channel. The sums are then those of the first row.
  void fold(const Span& s) {
    for (int64_t rows = s.lane_rows(); rows > 1;) {
      const int64_t half = (rows + 1) / 2, n = (rows - half) * s.channels;
      A *to = data(), *from = data() + half * s.channels;
      for (int64_t i = 0; i < n; ++i) to[i] += from[i];
      rows = half;
    }
  }

 private:
  Buffer<A> values_;
};

// A run of values in the accumulate type: in place, or by way of a copy.
template <class T>
class Run {
 public:
  using A = Acc<T>;
  explicit Run(const BatchNormArgs& a) : copy_(kCopies ? a.C + kLanes : 0) {}

  const A* read(const void* data, int64_t i, int64_t n) {
    const T* from = static_cast<const T*>(data) + i;
    if constexpr (!kCopies) return from;
    else return widen_row(from, copy_.data(), n), copy_.data();
  }

  // Calls f(to), which writes n values.
  template <class F>
  void write(void* data, int64_t i, int64_t n, F f) {
    T* to = static_cast<T*>(data) + i;
    if constexpr (!kCopies) return f(to);
    else f(copy_.data()), narrow_row(copy_.data(), to, n);
  }

 private:
  static constexpr bool kCopies = !__is_same(T, A);
  Buffer<A> copy_;
};

}  // namespace
}  // namespace equifast::cpu
