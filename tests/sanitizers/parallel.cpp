// Threads in the place of torch's pool. Sanitizers know when these start and end, and so what comes before what.
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kThreads = 3;

}  // namespace

// The library is linked so that it calls these, and not those of torch (-Bsymbolic).
extern "C" AOTITorchError torch_get_num_threads(uint32_t* threads) {
  *threads = kThreads;
  return 0;
}

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc task, void* context) {
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(kThreads);
  const int64_t each = (end - begin + kThreads - 1) / kThreads;
  for (int64_t k = 0; k < kThreads; ++k) {
    const int64_t first = begin + k * each, last = std::min(first + each, end);
    if (first >= last) break;
    threads.emplace_back([=, &errors] {
      try {
        task(first, last, context);
      } catch (...) {
        errors[k] = std::current_exception();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return std::any_of(errors.begin(), errors.end(), [](const std::exception_ptr& e) { return e != nullptr; });
}
