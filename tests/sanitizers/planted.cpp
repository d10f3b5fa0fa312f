// Mistakes that the sanitizers must find: in memory, in arithmetic and in threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace {

using torch::stable::Tensor;

float* data_of(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

// Writes one value after the last.
void overflow(Tensor t) { data_of(t)[t.numel()] = 1; }

// Reads one value before the first.
void underflow(Tensor t) { data_of(t)[0] = data_of(t)[-1]; }

// Adds to the number of values until the sum leaves 32 bits.
void undefined(Tensor t) {
  auto n = static_cast<int32_t>(t.numel());
  for (int k = 0; k < 31; ++k) n += n;
  data_of(t)[0] = static_cast<float>(n);
}

// Adds to one value in all threads.
void race(Tensor t) {
  float* const to = data_of(t);
  torch::stable::parallel_for(0, t.numel(), 1, [=](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) to[0] += 1;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(equifast_planted, m) {
  for (const char* name : {"overflow", "underflow", "undefined", "race"})
    m.def((std::string(name) + "(Tensor(a!) t) -> ()").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(equifast_planted, CPU, m) {
  m.impl("overflow", TORCH_BOX(&overflow));
  m.impl("underflow", TORCH_BOX(&underflow));
  m.impl("undefined", TORCH_BOX(&undefined));
  m.impl("race", TORCH_BOX(&race));
}
