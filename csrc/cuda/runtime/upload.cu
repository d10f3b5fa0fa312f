// Copies host memory to the device, one kernel argument at a time.
#include <cstring>

#include "cuda/runtime/device_table.h"

namespace equifast::cuda {
namespace {

constexpr int kThreads = 128;

struct UploadArgs {
  unsigned char* to;
  int32_t bytes;
  unsigned char from[3584];  // the arguments of a kernel may take 4096 bytes
};

__global__ void __launch_bounds__(kThreads) upload_kernel(const __grid_constant__ UploadArgs a) {
  for (int i = threadIdx.x; i < a.bytes; i += kThreads) a.to[i] = a.from[i];
}

}  // namespace

void upload(void* to, const void* from, int64_t bytes, Stream stream) {
  UploadArgs args = {};
  for (int64_t done = 0; done < bytes; done += args.bytes) {
    const int64_t rest = bytes - done, most = sizeof args.from;
    args.to = static_cast<unsigned char*>(to) + done;
    args.bytes = static_cast<int32_t>(rest < most ? rest : most);
    std::memcpy(args.from, static_cast<const unsigned char*>(from) + done, args.bytes);
    launch("upload", upload_kernel, 1, kThreads, 0, stream, args);
  }
}

}  // namespace equifast::cuda
