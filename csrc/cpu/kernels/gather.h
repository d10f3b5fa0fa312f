// Images whose rows are dense, for kernels that read along rows.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

// Images as they are where the pixels of a row are neighbours. Others are gathered into a core's cache, one at a time.
template <class T>
class DenseRows {
 public:
  DenseRows(const Images& images, const Resample& r)
      : images_(images),
        C_(r.C),
        H_(r.H),
        W_(r.W),
        elements_(images.e ? r.order : 1),
        copy_(gathers() ? elements_ * C_ * H_ * W_ : 0) {}

  // Image b of all elements, until the next call.
  Images of(int64_t b) const {
    if (!gathers()) return images_;
    T* to = copy_.data();
    for (int64_t e = 0; e < elements_; ++e, to += C_ * H_ * W_)
      gather(static_cast<const T*>(images_.data) + e * images_.e + b * images_.b, to);
    return {copy_.data(), images_.e ? C_ * H_ * W_ : 0, 0, H_ * W_, W_, 1};
  }

  bool gathers() const { return images_.w != 1 && W_ > 1; }

 private:
  // Copies an image to (C, H, W), by rows, of which all channels may share cache lines.
  void gather(const T* image, T* to) const {
    for (int64_t i = 0; i < H_; ++i)
      for (int64_t c = 0; c < C_; ++c) {
        const T* from = image + i * images_.h + c * images_.c;
        T* row = to + (c * H_ + i) * W_;
        for (int64_t j = 0; j < W_; ++j) row[j] = from[j * images_.w];
      }
  }

  Images images_;
  int64_t C_, H_, W_, elements_;
  Buffer<T> copy_;
};

}  // namespace
}  // namespace equifast::cpu
