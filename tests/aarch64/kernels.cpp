// Runs kernels for CPUs on made-up images and vectors, without torch, and prints a hash of what each leaves. Processors
// of different kinds have to print the same.
#include "cpu/kernels/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace equifast::cpu::baseline {

#define EQUIFAST_DECLARE(name, Args) void name(const Args&, int64_t, int64_t);
EQUIFAST_CPU_KERNELS(EQUIFAST_DECLARE)

}  // namespace equifast::cpu::baseline

namespace {

using namespace equifast;
using namespace equifast::cpu;
using Bytes = std::vector<unsigned char>;

constexpr int64_t kBatch = 3, kChannels = 5;

int64_t size_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

uint32_t next_random() {
  static uint32_t state = 1;
  return (state = state * 1664525u + 1013904223u) >> 8;
}

template <class T>
void store(Bytes& bytes, int64_t k, T value) {
  std::copy_n(reinterpret_cast<const unsigned char*>(&value), sizeof(T), bytes.data() + k * sizeof(T));
}

// Numbers of both signs, of a size near 1.
Bytes random(Dtype dtype, int64_t count) {
  Bytes bytes(count * size_of(dtype));
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t r = next_random(), sign = r & 0x8000;
    const double value = (r & 0xffffff) / double(1 << 23) - 1;
    switch (dtype) {
      case Dtype::float64: store(bytes, k, value); break;
      case Dtype::float32: store(bytes, k, static_cast<float>(value)); break;
      case Dtype::float16: store(bytes, k, static_cast<uint16_t>(sign | (0x3400 + (r & 0x7ff)))); break;
      case Dtype::bfloat16: store(bytes, k, static_cast<uint16_t>(sign | (0x3e80 + (r & 0xff)))); break;
    }
  }
  return bytes;
}

// FNV-1a.
void print(const char* kernel, Dtype dtype, int64_t n, const void* from, int64_t bytes) {
  uint64_t hash = 14695981039346656037u;
  for (int64_t k = 0; k < bytes; ++k) hash = (hash ^ static_cast<const unsigned char*>(from)[k]) * 1099511628211u;
  std::printf("%s %d %d %016llx\n", kernel, static_cast<int>(dtype), static_cast<int>(n),
              static_cast<unsigned long long>(hash));
}

// The rotations by 360°/n, and their reflections, on images of one size. Coefficients are multiples of 2^-20, so that
// they are the same whatever computes a cosine.
struct Plan {
  Plan(int n, int64_t height, int64_t width) {
    const auto rounded = [](double v) { return std::nearbyint(v * (1 << 20)) / (1 << 20); };
    for (int e = 0; e < 2 * n; ++e) {
      const double angle = 2 * std::acos(-1.0) * (e % n) / n, c = rounded(std::cos(angle)),
                   s = rounded(std::sin(angle));
      const Matrix base = 4 * (e % n) % n == 0 ? Matrix{1, 0, 0, 1} : Matrix{c, s, -s, c};
      const int quarters = base.is_identity() ? 4 * (e % n) / n : 0;
      actions.push_back(factor({quarters + 4 * (e / n), base}, height == width));
    }
    for (const Action& action : actions) {
      const auto known = std::find(bases.begin(), bases.end(), action.base);
      of_element.push_back(action.exact() ? -1 : known - bases.begin());
      if (!action.exact() && known == bases.end()) bases.push_back(action.base);
    }
  }

  std::vector<Action> actions;
  std::vector<Matrix> bases;
  std::vector<int64_t> of_element;
};

void resample(Dtype dtype, int n, int64_t height, int64_t width, bool border) {
  const Plan plan(n, height, width);
  const auto order = static_cast<int64_t>(plan.actions.size()), plane = height * width;
  Resample r = {.dtype = dtype,
                .B = kBatch,
                .C = kChannels,
                .H = height,
                .W = width,
                .order = order,
                .actions = plan.actions.data(),
                .base = plan.of_element.data(),
                .bases = static_cast<int64_t>(plan.bases.size()),
                .footprints = nullptr,
                .permutation = nullptr,
                .permutation_size = 0,
                .mixing = nullptr,
                .border = border,
                .interleaved = 1,
                .channel_block = kChannelBlock,
                .row_runs = 1,
                .all_elements = false,
                .reuse_bases = false,
                .around_cache = false};
  std::vector<std::vector<int64_t>> starts(r.bases, std::vector<int64_t>(plane + 1));
  std::vector<std::vector<uint32_t>> indices(r.bases, std::vector<uint32_t>(4 * plane));
  std::vector<std::vector<double>> weights(r.bases, std::vector<double>(4 * plane));
  std::vector<Footprint> footprints;
  for (int64_t k = 0; k < r.bases; ++k) footprints.push_back({starts[k].data(), indices[k].data(), weights[k].data()});
  if (r.bases) baseline::footprint({r, plan.bases.data(), footprints.data()}, 0, r.bases);

  const int64_t values = kBatch * kChannels * plane, tasks = kBatch * r.channel_blocks();
  const Bytes x = random(dtype, values), y = random(dtype, values);
  const std::vector<int64_t> element = {1 % order, order - 1, order / 2};
  const Images images = {x.data(), 0, kChannels * plane, plane, width, 1};
  Images others = images;
  others.data = y.data();
  Bytes out(order * values * 8);
  ResampleArgs args = {r, images, others, nullptr, element.data(), out.data()};
  const auto run = [&](const char* name, auto kernel, int64_t count, int64_t bytes) {
    std::fill(out.begin(), out.end(), 0);
    kernel(args, 0, count);
    print(name, dtype, n, out.data(), bytes);
  };
  const int64_t image_bytes = values * size_of(dtype);
  run("orbit", baseline::orbit, order * tasks, order * image_bytes);
  run("act", baseline::act, tasks, image_bytes);
  run("orbit_average", baseline::orbit_average, tasks, image_bytes);
  run("orbit_inner", baseline::orbit_inner, tasks, kBatch * kChannels * order * 8);
  args.resample.footprints = footprints.data();
  run("orbit_adjoint", baseline::orbit_adjoint, order * tasks, order * image_bytes);
  run("act_adjoint", baseline::act_adjoint, tasks, image_bytes);
  run("orbit_average_adjoint", baseline::orbit_average_adjoint, tasks, image_bytes);
}

void vectors(Dtype dtype, int64_t order, int64_t d) {
  const Bytes v = random(dtype, order * kBatch * d);
  std::vector<double> partial(kBatch);
  Bytes gram(kBatch * order * order * 8);
  const ContrastiveArgs args = {dtype, order, kBatch, d, v.data(), true, partial.data(), gram.data(), 0, nullptr};
  baseline::contrastive_loss(args, 0, score_tasks(kBatch));
  print("contrastive_loss", dtype, d, partial.data(), kBatch * 8);
}

}  // namespace

int main() {
  for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
    for (const int n : {1, 3, 4, 8})
      for (const bool border : {false, true}) {
        resample(dtype, n, 9, 9, border);
        resample(dtype, n, 7, 20, border);
      }
    for (const int64_t d : {1, 7, 40}) vectors(dtype, 8, d);
  }
}
