// The threads of CUDA blocks as fibers of one thread. They take turns at barriers, in the same order at every run,
// which is ten times faster than threads that wait for each other. For ThreadSanitizer each fiber is a thread of its
// own, and only launches and barriers order them. It must not see how the fibers take turns: those functions are
// EQUIFAST_UNSEEN.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define EQUIFAST_UNSEEN __attribute__((noinline, no_sanitize_thread))
#else
#define EQUIFAST_UNSEEN __attribute__((noinline))
#endif

namespace equifast::cuda {

// Tells ThreadSanitizer that what a fiber did before `release` is over when another one returns from `acquire`.
struct alignas(8) Order {
  char address[8];
  EQUIFAST_UNSEEN void release() {
#ifdef __SANITIZE_THREAD__
    __tsan_release(address);
#endif
  }
  EQUIFAST_UNSEEN void acquire() {
#ifdef __SANITIZE_THREAD__
    __tsan_acquire(address);
#endif
  }
};

// What the fibers of a launch run, each with its own index.
struct Work {
  virtual void run(int index) = 0;
  Order begin, end;
};

class Fibers;
inline thread_local Fibers* current_fibers;

// The CUDA thread of the fiber that runs.
struct Thread;
inline thread_local Thread* current_thread;
EQUIFAST_UNSEEN inline void become(Thread* thread) { current_thread = thread; }

// All fibers of one thread. They are kept from launch to launch, since ThreadSanitizer takes long to make one.
class Fibers {
 public:
  // Runs work.run(index) in a fiber for each index below count, and returns when all of them have returned.
  EQUIFAST_UNSEEN static void run(int count, Work& work) {
    static thread_local Fibers fibers;
    current_fibers = &fibers;
    fibers.start(count, work);
  }

  // Lets the other fibers run until it is the turn of this one again.
  EQUIFAST_UNSEEN void yield() {
    if (++idle_ > 2 * running_) {
      std::fputs("emulation: threads wait at a barrier that others of their block or warp never reach\n", stderr);
      std::abort();
    }
    Thread* thread = current_thread;
    switch_to(*current_->next);
    current_thread = thread;
  }
  // Tells that a barrier has opened, so not all fibers wait in vain.
  EQUIFAST_UNSEEN void progress() { idle_ = 0; }

 private:
  static constexpr size_t kStack = 64 << 10, kGuard = 4 << 10;

  struct Fiber {
    ucontext_t context;
    const void* stack = nullptr;
    size_t size = 0;
    Fiber *next = nullptr, *previous = nullptr;  // in the ring of the fibers that have not returned
    int index = 0;
    void* tsan = nullptr;        // ThreadSanitizer's name of the fiber
    void* fake_stack = nullptr;  // AddressSanitizer's stack beside the real one
  };

  EQUIFAST_UNSEEN void start(int count, Work& work) {
    while (static_cast<int>(fibers_.size()) < count) fibers_.push_back(make_fiber());
#ifdef __SANITIZE_THREAD__
    main_.tsan = __tsan_get_current_fiber();
#endif
    for (int i = 0; i < count; ++i) {
      fibers_[i]->index = i;
      fibers_[i]->next = fibers_[(i + 1) % count].get();
      fibers_[i]->previous = fibers_[(i + count - 1) % count].get();
    }
    work_ = &work;
    running_ = count;
    idle_ = 0;
    current_ = &main_;
    work.begin.release();
    switch_to(*fibers_[0]);
    work.end.acquire();
  }

  EQUIFAST_UNSEEN std::unique_ptr<Fiber> make_fiber() {
    auto fiber = std::make_unique<Fiber>();
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kGuard, PROT_NONE);  // a stack that overflows faults here
    fiber->stack = static_cast<char*>(memory) + kGuard;
    fiber->size = kStack - kGuard;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = const_cast<void*>(fiber->stack);
    fiber->context.uc_stack.ss_size = fiber->size;
    makecontext(&fiber->context, &Fibers::loop, 0);
#ifdef __SANITIZE_THREAD__
    fiber->tsan = __tsan_create_fiber(0);
#endif
    return fiber;
  }

  // What a fiber runs: its part of one launch after the other.
  EQUIFAST_UNSEEN static void loop() {
    Fibers& fibers = *current_fibers;
    fibers.end_switch(nullptr);
    for (;;) {
      Fiber& fiber = *fibers.current_;
      fibers.work_->begin.acquire();
      fibers.work_->run(fiber.index);
      fibers.work_->end.release();
      fiber.previous->next = fiber.next;
      fiber.next->previous = fiber.previous;
      fibers.idle_ = 0;
      fibers.switch_to(--fibers.running_ ? *fiber.next : fibers.main_);
    }
  }

  EQUIFAST_UNSEEN void switch_to(Fiber& next) {
    Fiber& fiber = *current_;
    if (&fiber == &next) return;
    came_from_ = &fiber;
    current_ = &next;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fiber.fake_stack, next.stack, next.size);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(next.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    swapcontext(&fiber.context, &next.context);
    end_switch(fiber.fake_stack);
  }

  // The first call of a fiber that has been switched to.
  EQUIFAST_UNSEEN void end_switch([[maybe_unused]] void* fake_stack) {
#ifdef __SANITIZE_ADDRESS__
    const void* stack;
    size_t size;
    __sanitizer_finish_switch_fiber(fake_stack, &stack, &size);
    came_from_->stack = stack;
    came_from_->size = size;
#endif
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber main_, *current_ = nullptr, *came_from_ = nullptr;
  Work* work_ = nullptr;
  int running_ = 0;  // fibers that have not returned
  int idle_ = 0;     // turns since a fiber returned or a barrier opened
};

// Opens when `expected` fibers wait at it.
class Barrier {
 public:
  explicit Barrier(int expected) : expected_(expected) {}

  // The two orders alternate. With one, a fiber that is already at the next barrier would release to fibers that still
  // leave this one, and a race between the two would look ordered.
  EQUIFAST_UNSEEN void wait() {
    const unsigned phase = phase_;
    orders_[phase % 2].release();
    if (++arrived_ == expected_) {
      arrived_ = 0;
      ++phase_;
      current_fibers->progress();
    } else {
      while (phase_ == phase) current_fibers->yield();
    }
    orders_[phase % 2].acquire();
  }

 private:
  int expected_, arrived_ = 0;
  unsigned phase_ = 0;
  Order orders_[2];
};

}  // namespace equifast::cuda
