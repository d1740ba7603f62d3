// CUDA's execution model on one thread of a CPU, so that kernels can be tested without a GPU.
//
// A thread runs until it waits for others or ends, and reads and writes memory at once: a missing
// barrier shows only if the results depend on the order of the threads, so run kernels with
// several seeds (machine.h). Two threads that read and write the same place without an atomic
// operation, missing fences and accesses that are not aligned do not show at all. A thread that
// spins on memory spins for ever.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <type_traits>

#include "machine.h"
#include "warp.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define HASHFAST_DYNAMIC_SHARED(name) \
  unsigned char* const name = cuda_on_cpu::machine.dynamic_shared()

// A function for Python: what `tests/emulated.py` calls, as `return cuda_on_cpu::attempt(...)`.
#define EMULATED extern "C" __attribute__((visibility("default"))) const char*

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

using std::max;
using std::min;

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
inline void __threadfence() {}

inline void __syncthreads(cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  cuda_on_cpu::machine.barrier("__syncthreads", where, false);
}
inline int __syncthreads_count(int predicate,
                               cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::machine.barrier("__syncthreads_count", where, predicate != 0);
}
inline int __syncthreads_or(int predicate,
                            cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::machine.barrier("__syncthreads_or", where, predicate != 0) != 0;
}

inline void __syncwarp(unsigned mask = ~0u,
                       cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  cuda_on_cpu::ballot("__syncwarp", mask, 0, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::ballot("__ballot_sync", mask, predicate, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::ballot("__any_sync", mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::ballot("__all_sync", mask, !predicate, where) == 0;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::shuffle("__shfl_sync", cuda_on_cpu::Shuffle::index, mask, value, lane, width,
                              where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::shuffle("__shfl_up_sync", cuda_on_cpu::Shuffle::up, mask, value, by, width,
                              where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::shuffle("__shfl_down_sync", cuda_on_cpu::Shuffle::down, mask, value, by,
                              width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::shuffle("__shfl_xor_sync", cuda_on_cpu::Shuffle::exclusive_or, mask, value,
                              lanes, width, where);
}

// The lanes that have the same value.
template <class T>
unsigned __match_any_sync(unsigned mask, T value,
                          cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  return static_cast<unsigned>(cuda_on_cpu::machine.warp(
      "__match_any_sync", where, mask,
      [](const cuda_on_cpu::Thread* lanes, unsigned arrived, int lane) {
        uint64_t equal = 0;
        for (int i = 0; i < 32; ++i)
          if (arrived >> i & 1 && lanes[i].wait.value == lanes[lane].wait.value)
            equal |= uint64_t{1} << i;
        return equal;
      },
      cuda_on_cpu::bits_of(value)));
}

template <class T>
T __reduce_add_sync(unsigned mask, T value,
                    cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  const auto join = [](T one, T other) { return T(unsigned(one) + unsigned(other)); };
  return cuda_on_cpu::reduce("__reduce_add_sync", mask, value, join, where);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value,
                    cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  const auto join = [](T one, T other) { return min(one, other); };
  return cuda_on_cpu::reduce("__reduce_min_sync", mask, value, join, where);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value,
                    cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  const auto join = [](T one, T other) { return max(one, other); };
  return cuda_on_cpu::reduce("__reduce_max_sync", mask, value, join, where);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  const auto join = [](unsigned one, unsigned other) { return one | other; };
  return cuda_on_cpu::reduce("__reduce_or_sync", mask, value, join, where);
}

namespace cuda_on_cpu {

// Stores update(old) and returns what was there.
template <class T, class Update>
T atomically(T* address, Update update) {
  machine.pause();
  const T old = *address;
  *address = update(old);
  machine.pause();
  return old;
}

// What CUDA has atomic operations for: uint64_t is another type than unsigned long long.
template <class T>
concept Counted =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;

}  // namespace cuda_on_cpu

inline float atomicAdd(float* address, float value) {
  return cuda_on_cpu::atomically(address, [&](float old) { return old + value; });
}
template <cuda_on_cpu::Counted T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  using Bits = std::make_unsigned_t<T>;
  return cuda_on_cpu::atomically(address, [&](T old) { return T(Bits(old) + Bits(value)); });
}
template <cuda_on_cpu::Counted T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomically(address, [&](T old) { return min(old, value); });
}
template <cuda_on_cpu::Counted T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomically(address, [&](T old) { return max(old, value); });
}
template <cuda_on_cpu::Counted T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomically(address, [&](T old) { return old | value; });
}
template <cuda_on_cpu::Counted T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomically(address, [&](T) { return value; });
}
template <cuda_on_cpu::Counted T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomically(address, [&](T old) { return old == expected ? value : old; });
}

namespace hashfast {

// b1_mma.cuh has these for a GPU.
inline void mma_b1(int (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int (&c)[4],
                   cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  cuda_on_cpu::multiply_bits<128>({d, a, b, c}, where);
}
inline void mma_b1(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4],
                   cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
  cuda_on_cpu::multiply_bits<256>({d, a, b, c}, where);
}

// launch.cuh has it for a GPU.
class Launch {
 public:
  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                  Arguments... arguments) const {
    const auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
    cuda_on_cpu::machine.run(
        grid, threads, shared,
        [](const void* context) { (*static_cast<decltype(body)*>(context))(); }, &body);
  }

  void zero(void* data, size_t bytes) const { std::memset(data, 0, bytes); }
  int processors() const { return cuda_on_cpu::settings.processors; }
  bool multiplies_bits() const { return cuda_on_cpu::settings.multiplies_bits; }
};

}  // namespace hashfast

namespace cuda_on_cpu {

// Runs `body`; returns null, or the message of what it threw, which stays until the next call.
template <class Body>
const char* attempt(Body body) {
  static std::string message;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace cuda_on_cpu

extern "C" __attribute__((visibility("default"), used)) inline void cuda_on_cpu_set(
    uint64_t seed, int64_t resident, int64_t processors, int64_t multiplies_bits) {
  cuda_on_cpu::settings = {seed, static_cast<int>(resident), static_cast<int>(processors),
                           multiplies_bits != 0};
}
