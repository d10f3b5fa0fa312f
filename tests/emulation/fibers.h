// The threads of CUDA blocks as fibers of one thread, which take turns at barriers: in the same order at every run, and
// ten times faster than threads that wait for each other. To ThreadSanitizer each fiber is a thread of its own, ordered
// by launches and barriers alone; of the taking of turns it must see nothing (EQUIFAST_UNSEEN).
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

// Where those that come later learn what those before did.
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

// What runs for each fiber of a launch.
struct Work {
  virtual void run(int index) = 0;
  Order begin, end;
};

class Fibers;
inline thread_local Fibers* current_fibers;

// Of the fiber that runs.
struct Thread;
inline thread_local Thread* current_thread;
EQUIFAST_UNSEEN inline void become(Thread* thread) { current_thread = thread; }

// Of one thread: kept from launch to launch, as ThreadSanitizer takes long to make one.
class Fibers {
 public:
  // work.run(index) for each index below count, at once; the caller comes back when all have.
  EQUIFAST_UNSEEN static void run(int count, Work& work) {
    static thread_local Fibers fibers;
    current_fibers = &fibers;
    fibers.start(count, work);
  }

  // The others' turn.
  EQUIFAST_UNSEEN void yield() {
    if (++idle_ > 2 * running_) {
      std::fputs("emulation: threads wait at a barrier that others of their block or warp never reach\n", stderr);
      std::abort();
    }
    Thread* thread = current_thread;
    switch_to(*current_->next);
    current_thread = thread;
  }
  // Who waits may go on.
  EQUIFAST_UNSEEN void progress() { idle_ = 0; }

 private:
  static constexpr size_t kStack = 64 << 10, kGuard = 4 << 10;

  struct Fiber {
    ucontext_t context;
    const void* stack = nullptr;
    size_t size = 0;
    Fiber *next = nullptr, *before = nullptr;
    int index = 0;
    void* tsan = nullptr;
    void* fake = nullptr;
  };

  EQUIFAST_UNSEEN void start(int count, Work& work) {
    while (static_cast<int>(fibers_.size()) < count) fibers_.push_back(made());
#ifdef __SANITIZE_THREAD__
    main_.tsan = __tsan_get_current_fiber();
#endif
    for (int i = 0; i < count; ++i) {
      fibers_[i]->index = i;
      fibers_[i]->next = fibers_[(i + 1) % count].get();
      fibers_[i]->before = fibers_[(i + count - 1) % count].get();
    }
    work_ = &work;
    running_ = count;
    idle_ = 0;
    current_ = &main_;
    work.begin.release();
    switch_to(*fibers_[0]);
    work.end.acquire();
  }

  EQUIFAST_UNSEEN std::unique_ptr<Fiber> made() {
    auto fiber = std::make_unique<Fiber>();
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kGuard, PROT_NONE);  // what grows past its stack ends there
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

  EQUIFAST_UNSEEN static void loop() {
    Fibers& mine = *current_fibers;
    mine.arrived(nullptr);
    for (;;) {
      Fiber& fiber = *mine.current_;
      mine.work_->begin.acquire();
      mine.work_->run(fiber.index);
      mine.work_->end.release();
      fiber.before->next = fiber.next;
      fiber.next->before = fiber.before;
      mine.idle_ = 0;
      mine.switch_to(--mine.running_ ? *fiber.next : mine.main_);
    }
  }

  EQUIFAST_UNSEEN void switch_to(Fiber& next) {
    Fiber& fiber = *current_;
    if (&fiber == &next) return;
    came_from_ = &fiber;
    current_ = &next;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fiber.fake, next.stack, next.size);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(next.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    swapcontext(&fiber.context, &next.context);
    arrived(fiber.fake);
  }

  EQUIFAST_UNSEEN void arrived([[maybe_unused]] void* fake) {
#ifdef __SANITIZE_ADDRESS__
    const void* stack;
    size_t size;
    __sanitizer_finish_switch_fiber(fake, &stack, &size);
    came_from_->stack = stack;
    came_from_->size = size;
#endif
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber main_, *current_ = nullptr, *came_from_ = nullptr;
  Work* work_ = nullptr;
  int running_ = 0, idle_ = 0;
};

class Barrier {
 public:
  explicit Barrier(int expected) : expected_(expected) {}

  // Two orders by turns: who is first at the next barrier must not tell those that still leave this one.
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
