// What the lanes of a warp do together.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "machine.h"

namespace cuda_on_cpu {

// What a lane reads of one that takes no part: CUDA leaves it undefined.
constexpr uint64_t kUndefined = 0xa5a5a5a5a5a5a5a5;

template <class T>
uint64_t bits_of(T value) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T of_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline uint64_t value_of(const Thread* lanes, unsigned arrived, int lane) {
  return arrived >> lane & 1 ? lanes[lane].wait.value : kUndefined;
}

inline uint64_t from_source(const Thread* lanes, unsigned arrived, int lane) {
  return value_of(lanes, arrived, lanes[lane].wait.argument);
}

// The lane that this one reads, by the rules of PTX's shfl.sync.
enum class Shuffle { index, up, down, exclusive_or };

inline int source(Shuffle mode, int by, int width, const char* operation) {
  if (width < 1 || width > 32 || (width & (width - 1)))
    machine.fail(std::string(operation) + ": width must be a power of 2 up to 32, not " +
                 std::to_string(width));
  const int lane = static_cast<int>(threadIdx.x) % 32, first = lane & -width;
  const int last = first + width - 1;
  by &= 31;
  switch (mode) {
    case Shuffle::index: return first | (by & (width - 1));
    case Shuffle::up: return lane - by < first ? lane : lane - by;
    case Shuffle::down: return lane + by > last ? lane : lane + by;
    case Shuffle::exclusive_or: return (lane ^ by) > last ? lane : lane ^ by;
  }
  return lane;
}

template <class T>
T shuffle(const char* operation, Shuffle mode, unsigned mask, T value, int by, int width,
          const Where& where) {
  const int from = source(mode, by, width, operation);
  return of_bits<T>(machine.warp(operation, where, mask, from_source, bits_of(value), from));
}

inline unsigned ballot(const char* operation, unsigned mask, int predicate, const Where& where) {
  return static_cast<unsigned>(machine.warp(
      operation, where, mask,
      [](const Thread* lanes, unsigned arrived, int) {
        uint64_t votes = 0;
        for (int i = 0; i < 32; ++i)
          if (arrived >> i & 1) votes |= lanes[i].wait.value << i;
        return votes;
      },
      predicate != 0));
}

// join(one, other) over the lanes that arrived.
template <class T, class Join>
T reduce(const char* operation, unsigned mask, T value, Join, const Where& where) {
  static_assert(std::is_same_v<T, unsigned> || std::is_same_v<T, int>);
  return of_bits<T>(machine.warp(
      operation, where, mask,
      [](const Thread* lanes, unsigned arrived, int lane) {
        T all = of_bits<T>(lanes[lane].wait.value);
        for (int i = 0; i < 32; ++i)
          if (i != lane && arrived >> i & 1) all = Join()(all, of_bits<T>(lanes[i].wait.value));
        return bits_of(all);
      },
      bits_of(value)));
}

// A lane's part of d = popcount(a AND b) + c, for 16 x K bits a, K x 8 bits b.
struct Product {
  int* d;
  const uint32_t *a, *b;
  const int* c;
};

// The layouts of PTX's mma.m16n8k128 and m16n8k256 with .b1. A lane has group lane / 4 and place
// lane % 4.
//   Bit i of a is of row group where i / 32 is even, group + 8 where it is odd, and of column
//   32 place + i % 32, + 128 from i = 64 on. Bit i of b is of row 32 place + i % 32, + 128 from
//   i = 32 on, and of column group. c[i] is of row group, + 8 from i = 2 on, and of column
//   2 place + i % 2.
template <int K>
uint64_t multiply(const Thread* lanes, unsigned arrived, int lane) {
  if (arrived != ~0u) machine.fail("mma_b1 in a warp of fewer than 32 threads");
  if (lane != 0) return 0;  // the first does the work of all
  uint64_t a[16][K / 64] = {}, b[8][K / 64] = {};
  int sums[16][8];
  const auto part = [&](int i) {
    Product product;
    std::memcpy(&product, reinterpret_cast<const void*>(lanes[i].wait.value), sizeof(product));
    return product;
  };
  const auto store = [](uint64_t* row, int word, uint32_t bits) {
    row[word / 2] |= uint64_t{bits} << word % 2 * 32;
  };
  for (int i = 0; i < 32; ++i) {
    const int group = i / 4, place = i % 4;
    for (int r = 0; r < K / 64; ++r) store(a[group + r % 2 * 8], place + r / 2 * 4, part(i).a[r]);
    for (int r = 0; r < K / 128; ++r) store(b[group], place + r * 4, part(i).b[r]);
    for (int r = 0; r < 4; ++r) sums[group + r / 2 * 8][place * 2 + r % 2] = part(i).c[r];
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column)
      for (int word = 0; word < K / 64; ++word)
        sums[row][column] += std::popcount(a[row][word] & b[column][word]);
  for (int i = 0; i < 32; ++i)
    for (int r = 0; r < 4; ++r) part(i).d[r] = sums[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
  return 0;
}

template <int K>
void multiply_bits(const Product& product, const Where& where) {
  machine.warp("mma_b1", where, ~0u, multiply<K>, reinterpret_cast<uintptr_t>(&product));
}

}  // namespace cuda_on_cpu
