// Fibers: bodies with stacks of their own, which one thread of the CPU runs in turn.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstring>
#include <memory>

#if defined(__USE_FORTIFY_LEVEL) && __USE_FORTIFY_LEVEL > 0
#error "compile with -U_FORTIFY_SOURCE: its longjmp refuses to change stacks"
#endif

namespace cuda_on_cpu {

// Runs `body` again and again, each time suspended at its end. swapcontext would make two system
// calls a switch; _setjmp and _longjmp make none.
class Fiber {
 public:
  explicit Fiber(void (*body)()) : body_(body), stack_(new unsigned char[kStack]) {
    std::memset(stack_.get(), kUntouched, kMargin);
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = stack_.get();
    start.uc_stack.ss_size = kStack;
    start.uc_link = nullptr;
    makecontext(&start, &Fiber::live, 0);
    running_ = this;
    enter(start);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs it until it suspends itself.
  __attribute__((noinline)) void resume() {
    running_ = this;
    if (_setjmp(home_) == 0) _longjmp(here_, 1);
  }

  // Called by the running fiber: back to who resumed it.
  __attribute__((noinline)) static void suspend() {
    if (_setjmp(running_->here_) == 0) _longjmp(home_, 1);
  }

  // Whether the body has kept to its stack so far.
  bool intact() const {
    for (size_t i = 0; i < kMargin; ++i)
      if (stack_[i] != kUntouched) return false;
    return true;
  }

 private:
  static constexpr size_t kStack = 64 * 1024, kMargin = 64;
  static constexpr unsigned char kUntouched = 0x5a;

  __attribute__((noinline)) static void enter(const ucontext_t& start) {
    if (_setjmp(home_) == 0) setcontext(&start);
  }

  static void live() {
    for (;;) {
      suspend();
      running_->body_();
    }
  }

  static inline Fiber* running_ = nullptr;
  static inline jmp_buf home_;

  void (*body_)();
  std::unique_ptr<unsigned char[]> stack_;
  jmp_buf here_;
};

}  // namespace cuda_on_cpu
