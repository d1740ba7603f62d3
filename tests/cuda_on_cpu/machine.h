// Runs a grid of blocks: every thread is a fiber, which runs until it waits for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "block.h"

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace cuda_on_cpu {

struct Settings {
  // Which thread or block goes on: 0 each in its turn, odd any, even mostly the latest that could
  // (so that one warp runs far ahead of the others).
  uint64_t seed = 0;
  int resident = 1;  // blocks in flight at once
  int processors = 3;
  bool multiplies_bits = true;
};
inline Settings settings;

class Machine {
 public:
  using Body = void (*)(const void* context);

  // Runs body(context) in every thread. Throws std::invalid_argument where CUDA refuses to launch,
  // std::runtime_error where threads wait for what never comes or leave their memory.
  void run(dim3 grid, int threads, size_t shared, Body body, const void* context) {
    check(grid, threads, shared);
    blockDim = dim3(threads), gridDim = grid;
    body_ = body, context_ = context, shared_ = shared;
    statics_.locate();
    random_ = settings.seed;
    block_ = nullptr;
    const size_t resident = settings.resident;
    if (blocks_.size() < resident) blocks_.resize(resident);
    const std::vector<uint3> order = blocks_of(grid);
    for (size_t turn = 0, started = 0, finished = 0; finished < order.size(); ++turn) {
      Block& block = blocks_[settings.seed ? below(resident) : turn % resident];
      const bool idle = block.alive == 0;
      if (idle && started == order.size()) continue;
      enter(block);
      if (idle) start(order[started++]);
      go_on();
      if (block.alive == 0) {
        check_memory();
        ++finished;
      }
      if (!error_.empty()) {
        blocks_.clear();
        throw std::runtime_error(std::exchange(error_, {}));
      }
    }
  }

  // The running thread waits for its whole block. Returns how many threads gave true.
  int barrier(const char* operation, const Where& where, bool value) {
    Wait& wait = current().wait;
    wait = {.operation = operation, .where = where, .value = value};
    ++block_->at_barrier;
    pass_barrier();
    Fiber::suspend();
    return static_cast<int>(wait.result);
  }

  // The running thread waits for the lanes of `mask`. Returns what `combine` makes for it.
  uint64_t warp(const char* operation, const Where& where, unsigned mask, Combine combine,
                uint64_t value, int argument = 0) {
    Wait& wait = current().wait;
    wait = {operation, where, mask, combine, value, argument};
    if (!(mask >> thread_ % 32 & 1)) fail(describe(thread_) + ": a mask without the lane itself");
    pass_warp(thread_);
    Fiber::suspend();
    return wait.result;
  }

  // Others may run before and after an atomic operation.
  void pause() {
    if (settings.seed ? below(4) != 0 : settings.resident == 1) return;
    block_->ready.push_back(thread_);
    steps_ = 0;
    Fiber::suspend();
  }

  // Ends the launch with this error.
  [[noreturn]] void fail(const std::string& message) {
    error_ = message;
    for (;;) Fiber::suspend();
  }

  unsigned char* dynamic_shared() { return block_->dynamic.data(); }

  std::vector<AsyncCopy>& copies() { return current().copies; }

 private:
  static void check(dim3 grid, int threads, size_t shared) {
    constexpr size_t kMost = 48 * 1024;
    std::ostringstream out;
    if (grid.x - 1 > 0x7ffffffe || grid.y - 1 > 65534 || grid.z - 1 > 65534)
      out << "a grid has 1 .. 2^31 - 1 by 65535 by 65535 blocks, not " << grid.x << " by " << grid.y
          << " by " << grid.z;
    else if (threads < 1 || threads > 1024)
      out << "a block has 1 .. 1024 threads, not " << threads;
    else if (shared > kMost)
      out << "a block has at most " << kMost << " bytes of shared memory, not " << shared;
    if (!out.str().empty()) throw std::invalid_argument(out.str());
  }

  std::vector<uint3> blocks_of(dim3 grid) {
    std::vector<uint3> order;
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) order.push_back({x, y, z});
    if (settings.seed)
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[below(i)]);
    return order;
  }

  uint64_t below(uint64_t n) {  // splitmix64
    uint64_t x = random_ += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return (x ^ x >> 31) % n;
  }

  void enter(Block& block) {
    if (block_ == &block) return;
    if (block_) statics_.save(block_->statics);
    block_ = &block;
    blockIdx = block.index;
    if (block.alive) statics_.restore(block.statics);
  }

  void start(uint3 index) {
    blockIdx = block_->index = index;
    if (block_->threads.size() < blockDim.x) block_->threads.resize(blockDim.x);
    block_->alive = static_cast<int>(blockDim.x);
    for (int i = 0; i < block_->alive; ++i) {
      Thread& thread = block_->threads[i];
      if (!thread.fiber) thread.fiber = std::make_unique<Fiber>(&Machine::live);
      thread.exited = false;
      thread.copies.clear();
      block_->ready.push_back(i);
    }
    statics_.poison();
    block_->dynamic.poison(shared_);
  }

  static void live();  // what every fiber does for a block

  // Resumes threads of the block, for a while if there are others.
  void go_on() {
    const int count = static_cast<int>(blockDim.x);
    steps_ = settings.seed ? 1 + static_cast<int>(below(2 * count)) : count;
    for (; steps_ > 0 && block_->alive && error_.empty(); --steps_) {
      if (block_->ready.empty()) {
        error_ = stuck();
        return;
      }
      thread_ = choose();
      threadIdx.x = thread_;
      current().fiber->resume();
    }
  }

  int choose() {
    std::vector<int>& ready = block_->ready;
    size_t place = 0;
    if (settings.seed)
      place = settings.seed % 2 || below(32) == 0 ? below(ready.size()) : ready.size() - 1;
    const int chosen = ready[place];
    ready.erase(ready.begin() + place);
    return chosen;
  }

  void exit() {
    current().exited = true;
    --block_->alive;
    if (block_->alive == 0) return;
    pass_barrier();
    for (int i = 0, first = thread_ / 32 * 32; i < 32; ++i)
      if (const int other = first + i; waits(other) && wait_of(other).combine) pass_warp(other);
  }

  // Ends the barrier of the block if all threads are there: those that exited are not waited for.
  void pass_barrier() {
    if (block_->at_barrier < block_->alive) return;
    int first = 0;
    while (!waits(first)) ++first;
    uint64_t sum = 0;
    for (int i = first; i < int(blockDim.x); ++i) {
      if (!waits(i)) continue;
      if (!wait_of(i).same(wait_of(first))) {
        error_ = "one barrier in different places: " + describe(first) + "; " + describe(i);
        return;
      }
      sum += wait_of(i).value;
    }
    for (int i = first; i < int(blockDim.x); ++i)
      if (waits(i)) release(i, sum);
    block_->at_barrier = 0;
  }

  // Ends the warp operation that `thread` waits at if all lanes of its mask that have not exited
  // are there.
  void pass_warp(int thread) {
    const Wait& wait = wait_of(thread);
    const int first = thread / 32 * 32;
    unsigned arrived = 0;
    for (int i = 0; i < 32; ++i) {
      const int lane = (thread + 1 + i) % 32;  // the next one is likeliest to be missing
      if (!(wait.mask >> lane & 1) || first + lane >= int(blockDim.x)) continue;
      const Thread& other = block_->threads[first + lane];
      if (other.exited) continue;
      if (!other.wait.same(wait)) return;
      arrived |= 1u << lane;
    }
    uint64_t results[32] = {};
    for (int lane = 0; lane < 32; ++lane)
      if (arrived >> lane & 1) results[lane] = wait.combine(&block_->threads[first], arrived, lane);
    for (int lane = 0; lane < 32; ++lane)
      if (arrived >> lane & 1) release(first + lane, results[lane]);
  }

  void release(int thread, uint64_t result) {
    wait_of(thread).result = result;
    wait_of(thread).operation = nullptr;
    block_->ready.push_back(thread);
  }

  // Where the threads of a block wait that none will ever leave.
  std::string stuck() const {
    std::ostringstream out;
    std::vector<int> firsts;
    for (int i = 0; i < int(blockDim.x); ++i) {
      bool known = !waits(i);
      for (const int first : firsts) known = known || wait_of(i).same(wait_of(first));
      if (!known) firsts.push_back(i);
    }
    out << "threads wait for others that never come:";
    for (const int first : firsts) {
      int count = 0;
      for (int i = 0; i < int(blockDim.x); ++i)
        count += waits(i) && wait_of(i).same(wait_of(first));
      out << "\n  " << describe(first);
      if (count > 1) out << ", and " << count - 1 << " more";
    }
    return out.str();
  }

  void check_memory() {
    std::ostringstream out;
    const uint3 at = block_->index;
    if (!block_->dynamic.intact())
      out << "block " << at.x << ", " << at.y << ", " << at.z << " wrote outside its " << shared_
          << " bytes of dynamic shared memory";
    for (int i = 0; i < int(blockDim.x); ++i)
      if (!block_->threads[i].fiber->intact()) out << "thread " << i << " overran its stack\n";
    if (!out.str().empty()) error_ = out.str();
  }

  std::string describe(int thread) const {
    std::ostringstream out;
    const uint3 at = block_->index;
    const Wait& wait = wait_of(thread);
    out << "block " << at.x << ", " << at.y << ", " << at.z << ", thread " << thread << " at "
        << wait.operation;
    if (wait.mask) out << " of lanes 0x" << std::hex << wait.mask << std::dec;
    out << " (" << wait.where.file_name() << ":" << wait.where.line() << ")";
    return out.str();
  }

  Thread& current() { return block_->threads[thread_]; }
  Wait& wait_of(int thread) { return block_->threads[thread].wait; }
  const Wait& wait_of(int thread) const { return block_->threads[thread].wait; }
  bool waits(int thread) const {
    return thread < int(blockDim.x) && wait_of(thread).operation != nullptr;
  }

  Body body_ = nullptr;
  const void* context_ = nullptr;
  size_t shared_ = 0;
  StaticShared statics_;
  std::vector<Block> blocks_;
  Block* block_ = nullptr;  // and the thread of it that runs
  int thread_ = 0, steps_ = 0;
  uint64_t random_ = 0;
  std::string error_;
};
inline Machine machine;

inline void Machine::live() {
  machine.body_(machine.context_);
  machine.exit();
}

}  // namespace cuda_on_cpu
