// What the machine knows of a block and its threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <vector>

#include "fibers.h"
#include "shared_memory.h"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cuda_on_cpu {

using Where = std::source_location;

struct Thread;
// What a lane gets out of all the lanes' waits; `arrived` has the bits of those that came.
using Combine = uint64_t (*)(const Thread* lanes, unsigned arrived, int lane);

struct Wait {
  const char* operation = nullptr;  // null while the thread can run
  Where where;
  unsigned mask = 0;          // of the lanes waited for; a barrier of the block has none
  Combine combine = nullptr;  // likewise
  uint64_t value = 0;
  int argument = 0;
  uint64_t result = 0;

  // Whether both wait in the same place.
  bool same(const Wait& other) const {
    return operation == other.operation && mask == other.mask &&
           where.line() == other.where.line() && where.column() == other.where.column();
  }
};

struct AsyncCopy {
  void* shared;
  const void* global;
  int bytes;
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  bool exited = false;
  Wait wait;
  std::vector<AsyncCopy> copies;  // started and not waited for
};

struct Block {
  uint3 index = {};
  std::vector<Thread> threads;
  int alive = 0, at_barrier = 0;
  std::vector<int> ready;  // threads, those first that could go on first
  DynamicShared dynamic;
  std::vector<unsigned char> statics;  // while another block runs
};

}  // namespace cuda_on_cpu
