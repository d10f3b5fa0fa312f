// The library _helper: facts about the native build, and the geometry of geometry.h for tests. It needs neither torch
// nor Python: equifast/backends/helper.py calls these functions by ctypes, so every Python can load it. Texts stay
// valid as long as the library is loaded.
#include <exception>
#include <string>

#include "cpu/runtime/isa.h"
#include "geometry.h"

#define EQUIFAST_EXPORT extern "C" __attribute__((visibility("default")))

// The variant of the CPU kernels in use; null if EQUIFAST_CPU_CAPABILITY names another. *error is then the reason.
EQUIFAST_EXPORT const char* equifast_isa(const char** error) {
  try {
    return equifast::isa_name(equifast::best_isa());
  } catch (const std::exception& e) {
    static const std::string reason = e.what();
    *error = reason.c_str();
    return nullptr;
  }
}

// The built variants that this CPU can run, slowest first, with commas between them.
EQUIFAST_EXPORT const char* equifast_supported_isas() {
  static const std::string names = [] {
    std::string listed;
    for (const auto isa : equifast::supported_isas())
      listed += (listed.empty() ? "" : ",") + std::string(equifast::isa_name(isa));
    return listed;
  }();
  return names.c_str();
}

// The variants compiled in, slowest first, with commas between them.
EQUIFAST_EXPORT const char* equifast_isas_built() { return EQUIFAST_ISAS; }

// A row of an action table as kernels read it on a grid: changes base (2, 2) in place, and returns the code.
EQUIFAST_EXPORT int equifast_factor(int code, double* base, bool square) {
  const equifast::Action a = equifast::factor({code, {base[0], base[1], base[2], base[3]}}, square);
  base[0] = a.base.xx, base[1] = a.base.xy, base[2] = a.base.yx, base[3] = a.base.yy;
  return a.code;
}

// The code of the inverse permutation.
EQUIFAST_EXPORT int equifast_inverse_code(int code) { return equifast::inverse_code(code); }

// The flat source index of every pixel of a permuted plane: out (height, width). A quarter turn needs a square.
EQUIFAST_EXPORT void equifast_permuted(int code, int height, int width, int64_t* out) {
  const equifast::Permutation p(code);
  for (int i = 0; i < height; ++i)
    for (int j = 0; j < width; ++j) {
      const int row = p.transposed ? j : i, col = p.transposed ? i : j;
      *out++ = (p.reverse_row ? height - 1 - row : row) * int64_t(width) + (p.reverse_col ? width - 1 - col : col);
    }
}

// What every pixel of a resampled plane reads, (first column, near, far, first row, near, far): out (height, width, 6).
EQUIFAST_EXPORT void equifast_taps(const double* base, int height, int width, bool border, double* out) {
  using equifast::sample_offset;
  constexpr double kOne = equifast::kOne;
  for (int i = 0; i < height; ++i)
    for (int j = 0; j < width; ++j) {
      const double dx = j - (width - 1) / 2.0, dy = i - (height - 1) / 2.0;
      const auto x = sample_offset(base[0], dx) + sample_offset(base[1], dy, (width - 1) / 2.0);
      const auto y = sample_offset(base[2], dx) + sample_offset(base[3], dy, (height - 1) / 2.0);
      for (const auto& t : {equifast::bilinear_tap(x, width, border), equifast::bilinear_tap(y, height, border)})
        *out++ = t.first, *out++ = t.near / kOne, *out++ = t.far / kOne;
    }
}
