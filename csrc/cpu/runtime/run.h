// Runs kernels on torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cpu/kernels/kernels.h"

namespace equifast::cpu {

inline int64_t thread_count() { return torch::stable::get_num_threads(); }

// There should be several tasks for each thread, so that threads finish together.
constexpr int64_t kTasksPerThread = 4;
// An image is cut into runs of at least this many rows: a task also has to be worth its start.
constexpr int64_t kMinRowsPerTask = 64;

// Into how many runs of rows to cut each image, where `images` tasks would leave threads idle. A row of interleaved
// channels counts as one for each block of channels.
inline int64_t row_runs(int64_t images, const Resample& r) {
  const int64_t rows = r.H * ((r.interleaved + kChannelBlock - 1) / kChannelBlock);
  const int64_t most = std::min(std::max<int64_t>(rows / kMinRowsPerTask, 1), r.H);
  return std::clamp<int64_t>(kTasksPerThread * thread_count() / images, 1, most);
}

// Whether there are enough images that each may be one task, however many elements it has.
inline bool one_task_an_image(int64_t images) { return images >= 2 * thread_count(); }

// Calls kernel(args, begin, end) for ranges that make up all tasks.
template <class Args>
void run(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t tasks) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

}  // namespace equifast::cpu
