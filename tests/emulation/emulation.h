// CUDA C++ on a CPU, for tests. Each CUDA thread is a fiber, so sanitizers see the errors that a GPU would hide. Two
// blocks run at once, so they also see races between blocks. No thread may return before the last barrier of its block.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __restrict__ __restrict

namespace equifast::cuda {

constexpr int kWarp = 32;

// The threads of a warp, and what they exchange.
struct Warp {
  Barrier barrier{kWarp};
  uint64_t value[kWarp];              // of a shuffle, by lane
  uint32_t a[kWarp][4], b[kWarp][2];  // of a matrix instruction, by lane
};

struct Block {
  explicit Block(int threads, int64_t shared)
      : barrier(threads), warps(threads / kWarp), shared_bytes(shared), memory(new unsigned char[shared]) {}

  Barrier barrier;
  std::vector<Warp> warps;
  int64_t shared_bytes;
  std::unique_ptr<unsigned char[]> memory;  // exactly as large as asked for: a sanitizer sees an access beyond it
};

struct Dimension {
  unsigned x;
};

// A CUDA thread: its block, and its variables that CUDA C++ has built in.
struct Thread {
  Block* block;
  Dimension thread_index, block_index, grid_size, block_size;
};

#define threadIdx ::equifast::cuda::current_thread->thread_index
#define blockIdx ::equifast::cuda::current_thread->block_index
#define gridDim ::equifast::cuda::current_thread->grid_size
#define blockDim ::equifast::cuda::current_thread->block_size

inline Warp& current_warp() { return current_thread->block->warps[threadIdx.x / kWarp]; }

inline void __syncthreads() { current_thread->block->barrier.wait(); }
inline void __syncwarp() { current_warp().barrier.wait(); }

// The value of lane `from`.
template <class T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= 8);
  Warp& warp = current_warp();
  std::memcpy(&warp.value[threadIdx.x % kWarp], &value, sizeof(T));
  warp.barrier.wait();
  std::memcpy(&value, &warp.value[from], sizeof(T));
  warp.barrier.wait();
  return value;
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return exchange(value, lane % kWarp);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return exchange(value, (threadIdx.x % kWarp) ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta) {
  const int lane = threadIdx.x % kWarp;
  return exchange(value, lane + delta < kWarp ? lane + delta : lane);
}

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <class To, class From>
To cast_bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}

inline float bits_to_float(uint32_t bits) { return cast_bits<float>(bits); }
inline uint32_t float_to_bits(float v) { return cast_bits<uint32_t>(v); }

inline float widen(half v) { return static_cast<float>(cast_bits<_Float16>(v.bits)); }
inline float widen(bfloat16 v) { return bits_to_float(static_cast<uint32_t>(v.bits) << 16); }

inline half to_half(float v) { return {cast_bits<uint16_t>(static_cast<_Float16>(v))}; }
inline bfloat16 to_bfloat16(float v) {
  const uint32_t bits = float_to_bits(v);
  return {static_cast<uint16_t>(v != v ? 0x7FFF : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}
inline float to_tf32(float v) {
  const uint32_t bits = float_to_bits(v);
  return (bits >> 23 & 0xFF) == 0xFF ? v : bits_to_float((bits + 0x1000) & 0xFFFFE000);
}

// Number k of a word: one of two 16-bit numbers, or the whole word, of which tf32 keeps the upper 19 bits.
inline float number(half, uint32_t word, int k) { return widen(half{static_cast<uint16_t>(word >> 16 * k)}); }
inline float number(bfloat16, uint32_t word, int k) { return widen(bfloat16{static_cast<uint16_t>(word >> 16 * k)}); }
inline float number(float, uint32_t word, int) { return bits_to_float(word & 0xFFFFE000); }

// c += a·b for a [16, K], b [K, 8] and c [16, 8], which are spread over the lanes as in mma.sync; K is 16, or 8 for
// tf32. Lane 4·g + t has rows g and g + 8 and columns 2·t and 2·t + 1 of c.
template <class T>
void mma(T type, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Warp& warp = current_warp();
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  std::memcpy(warp.a[lane], a, sizeof a);
  std::memcpy(warp.b[lane], b, sizeof b);
  warp.barrier.wait();
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2;
    float sum = 0;
    for (int word = 0; word < 8; ++word)
      for (int k = 0; k < 4 / static_cast<int>(sizeof(T)); ++k)
        sum += number(type, warp.a[4 * g + word % 4][i / 2 + word / 4 * 2], k) *
               number(type, warp.b[4 * column + word % 4][word / 4], k);
    c[i] += sum;
  }
  warp.barrier.wait();
}

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(current_thread->block->memory.get());
}

using Stream = void*;

// A launch of a kernel, of which at most two blocks run at once.
template <class Args>
struct Launch : Work {
  Launch(void (*kernel)(Args), const Args& args, int64_t blocks, int threads, int64_t shared)
      : kernel(kernel), args(args), blocks(blocks), threads(threads) {
    for (int i = 0; i < 2 && i < blocks; ++i) running.emplace_back(threads, shared);
  }

  void run(int index) override {
    Block& block = running[index / threads];
    Thread thread{&block, {unsigned(index % threads)}, {}, {unsigned(blocks)}, {unsigned(threads)}};
    become(&thread);
    for (int64_t i = index / threads; i < blocks; i += static_cast<int64_t>(running.size())) {
      thread.block_index.x = static_cast<unsigned>(i);
      // A block must not find what the block before it left in shared memory. Floating-point numbers of these bytes are
      // NaN.
      if (thread.thread_index.x == 0) std::memset(block.memory.get(), 0xFF, block.shared_bytes);
      block.barrier.wait();
      kernel(args);
      block.barrier.wait();
    }
  }

  void (*kernel)(Args);
  Args args;
  int64_t blocks;
  int threads;
  std::vector<Block> running;
};

// If EQUIFAST_LAUNCHES names a file, add a line that describes the launch to it, and return true. Such a launch doesn't
// run.
inline bool list_launch(const char* name, int64_t blocks, int threads, int64_t shared) {
  const char* file = std::getenv("EQUIFAST_LAUNCHES");
  if (file) std::ofstream(file, std::ios::app) << name << '\t' << blocks << '\t' << threads << '\t' << shared << '\n';
  return file != nullptr;
}

// Runs a launch in the place of the fibers. `kernel` is where the kernel begins in this library, which tells its name.
// Returns null or the text of an error.
using Launcher = const char* (*)(int64_t kernel, int64_t blocks, int threads, int64_t shared, const void* args,
                                 int64_t args_bytes);
inline Launcher launcher = nullptr;
extern "C" {
extern const char __ehdr_start[] __attribute__((visibility("hidden")));  // where this library begins in memory
__attribute__((visibility("default"), used)) inline void launch_by(Launcher other) { launcher = other; }
}

template <class Args>
void launch(const char* name, void (*kernel)(Args), int64_t blocks, int threads, int64_t shared, Stream,
            const Args& args) {
  if (blocks <= 0) return;
  if (threads <= 0 || threads > 1024 || threads % kWarp != 0)
    throw std::runtime_error(std::string(name) + ": expected whole warps, 1024 threads at most");
  if (list_launch(name, blocks, threads, shared)) return;
  if (launcher) {
    const int64_t place = reinterpret_cast<const char*>(kernel) - __ehdr_start;
    if (const char* error = launcher(place, blocks, threads, shared, &args, sizeof args))
      throw std::runtime_error(std::string(name) + ": " + error);
    return;
  }
  Launch<Args> all{kernel, args, blocks, threads, shared};
  Fibers::run(threads * static_cast<int>(all.running.size()), all);
}

struct Device {
  int processors, shared;
};
// An H100, but with one multiprocessor if kernels run, so that a block which takes pieces of work gets several of them.
inline Device device() { return {std::getenv("EQUIFAST_LAUNCHES") ? 132 : 1, 227 << 10}; }

}  // namespace equifast::cuda
