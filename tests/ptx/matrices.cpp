// Matrix instructions, which take their operands from all lanes of a warp.
#include <cmath>
#include <cstring>

#include "accesses.h"
#include "rows.h"

namespace equifast::ptx {
namespace {

using u32 = uint32_t;

// Numbers of a matrix, as a register holds them. Of tf32 the lower 13 bits are not read.
struct F16 {
  static constexpr int kOfWord = 2;
  static double number(u32 word, int i) {
    const auto bits = static_cast<uint16_t>(word >> 16 * i);
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};
struct Tf32 {
  static constexpr int kOfWord = 1;
  static double number(u32 word, int) {
    float value;
    word &= 0xFFFFE000;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
};
struct Bf16 {
  static constexpr int kOfWord = 2;
  static double number(u32 word, int i) { return Tf32::number(i ? word & 0xFFFF0000 : word << 16, 0); }
};

// D = A·B + C for A [16, K], B [K, 8] and C [16, 8], K being 8 words. PTX leaves the order and the rounding of the sums
// open. Here products are exact, and their sum with C, in float64, is rounded once. With g = lane / 4 and t = lane % 4,
// word i of a lane is: of A, word t + 4·(i / 2) of row g + 8·(i % 2); of B, word t + 4·i of column g; of C and D,
// column 2·t + i % 2 of row g + 8·(i / 2).
template <class T>
void multiply_matrices(Warp& warp, const int32_t* o, Mask active) {
  constexpr int kDepth = 8 * T::kOfWord;
  double a[16][kDepth], b[8][kDepth];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int k = 0; k < T::kOfWord; ++k) {
      for (int i = 0; i < 4; ++i)
        a[g + 8 * (i % 2)][T::kOfWord * (t + 4 * (i / 2)) + k] = T::number(warp.row<u32>(o[4 + i])[lane], k);
      for (int i = 0; i < 2; ++i) b[g][T::kOfWord * (t + 4 * i) + k] = T::number(warp.row<u32>(o[8 + i])[lane], k);
    }
  }
  for (int i = 0; i < 4; ++i)
    store(warp.row<float>(o[i]), active, [&](int lane) {
      const double *row = a[lane / 4 + 8 * (i / 2)], *column = b[2 * (lane % 4) + i % 2];
      double sum = warp.row<float>(o[10 + i])[lane];
      for (int k = 0; k < kDepth; ++k) sum += row[k] * column[k];
      return static_cast<float>(sum);
    });
}

// The same in float64 for A [8, 4], B [4, 8] and C [8, 8]. A lane has a number of A in row g and column t, one of B in
// row t and column g, and two of C and D in row g and columns 2·t and 2·t + 1.
void multiply_matrices_f64(Warp& warp, const int32_t* o, Mask active) {
  constexpr int kDepth = 4;
  const double *a = warp.row<double>(o[2]), *b = warp.row<double>(o[3]);
  double out[2][kLanes];
  for (int i = 0; i < 2; ++i)
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4, column = 2 * (lane % 4) + i;
      double sum = warp.row<double>(o[4 + i])[lane];
      for (int k = 0; k < kDepth; ++k) sum = std::fma(a[4 * row + k], b[4 * column + k], sum);
      out[i][lane] = sum;
    }
  for (int i = 0; i < 2; ++i) store(warp.row<double>(o[i]), active, [&](int lane) { return out[i][lane]; });
}

// Loads N matrices of 8 rows of 8 halves, or their transposes. Lane r + 8·m has the address of row r of matrix m. With
// g = lane / 4 and t = lane % 4, register m of a lane takes columns 2·t and 2·t + 1 of row g of matrix m.
template <int N, bool TRANSPOSED>
void load_matrices(Warp& warp, const int32_t* o, Mask active) {
  constexpr int kSide = 8;
  uint16_t matrices[N][kSide][kSide];
  constexpr Mask kAddresses = kAll >> (kLanes - N * kSide);
  visit<Shared>(warp, o + N, kAddresses, sizeof matrices[0][0], nullptr, [&](int lane, const unsigned char* place) {
    std::memcpy(matrices[lane / kSide][lane % kSide], place, sizeof matrices[0][0]);
  });
  for (int m = 0; m < N; ++m)
    store(warp.row<u32>(o[m]), active, [&](int lane) {
      const int g = lane / 4, t = 2 * (lane % 4);
      const auto& a = matrices[m];
      return TRANSPOSED ? a[t][g] | u32(a[t + 1][g]) << 16 : a[g][t] | u32(a[g][t + 1]) << 16;
    });
}

constexpr const char* kProduct = "{w,w,w,w},{w,w,w,w},{w,w},{w,w,w,w}";

constexpr Instruction kInstructions[] = {
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", kProduct, multiply_matrices<F16>, Flow::together},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", kProduct, multiply_matrices<Bf16>, Flow::together},
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", kProduct, multiply_matrices<Tf32>, Flow::together},
    {"mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64", "{d,d},d,d,{d,d}", multiply_matrices_f64, Flow::together},
    {"ldmatrix.sync.aligned.m8n8.x1.shared.b16", "w,[w+#]", load_matrices<1, false>, Flow::together},
    {"ldmatrix.sync.aligned.m8n8.x2.shared.b16", "{w,w},[w+#]", load_matrices<2, false>, Flow::together},
    {"ldmatrix.sync.aligned.m8n8.x4.shared.b16", "{w,w,w,w},[w+#]", load_matrices<4, false>, Flow::together},
    {"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "{w,w,w,w},[w+#]", load_matrices<4, true>, Flow::together},
};

}  // namespace

Instructions matrices() { return {kInstructions, std::size(kInstructions)}; }

}  // namespace equifast::ptx
