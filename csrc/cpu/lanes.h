// Vectors of floating-point entries and of integers that order like them, one column a lane.
#pragma once

#include <cstdint>
#include <cstring>

#include "../cpu_level.h"

namespace hashfast {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

// Key: as wide as Value. Vectors of `Bytes` bytes.
template <class Value, int Bytes>
struct Lanes;

template <int Bytes>
struct Lanes<float, Bytes> {
  using Key = int32_t;
  using Word = uint32_t;
  typedef int32_t Keys __attribute__((vector_size(Bytes)));
  typedef uint32_t Words __attribute__((vector_size(Bytes)));
  typedef float Values __attribute__((vector_size(Bytes)));
  typedef uint16_t Halves __attribute__((vector_size(Bytes / 2)));
  typedef int32_t Ints __attribute__((vector_size(Bytes)));
  typedef int16_t Shorts __attribute__((vector_size(Bytes / 2)));
  typedef int8_t Signs __attribute__((vector_size(Bytes / 4)));
  static constexpr Key kSquareRoot = 0x1fbd1df5;  // half of the exponent's bias, roughly
};

template <int Bytes>
struct Lanes<double, Bytes> {
  using Key = int64_t;
  using Word = uint64_t;
  typedef int64_t Keys __attribute__((vector_size(Bytes)));
  typedef uint64_t Words __attribute__((vector_size(Bytes)));
  typedef double Values __attribute__((vector_size(Bytes)));
  typedef int32_t Ints __attribute__((vector_size(Bytes / 2)));
  typedef int16_t Shorts __attribute__((vector_size(Bytes / 4)));
  typedef int8_t Signs __attribute__((vector_size(Bytes / 8)));
  static constexpr Key kSquareRoot = 0x1ff7a3bea91d9b1b;
};

template <class Floating, int Bytes>
struct Ordered : Lanes<Floating, Bytes> {
  using Value = Floating;
  using Base = Lanes<Value, Bytes>;
  using typename Base::Key, typename Base::Keys, typename Base::Values, typename Base::Word,
      typename Base::Words, typename Base::Ints, typename Base::Shorts, typename Base::Signs;
  static constexpr int kLanes = Bytes / sizeof(Value);
  static constexpr Key kMost = static_cast<Key>(~Word{0} >> 1);  // above every key
  static constexpr Key kNan = kMost - 1;

  static HASHFAST_INLINE Keys all(Key key) { return Keys{} + key; }
  static HASHFAST_INLINE Keys min(Keys a, Keys b) { return a < b ? a : b; }
  static HASHFAST_INLINE Keys max(Keys a, Keys b) { return a > b ? a : b; }

  // From width to half the width: GCC converts lane by lane over more.
  static HASHFAST_INLINE Keys widen(Signs signs) {
    const Shorts shorts = __builtin_convertvector(signs, Shorts);
    return __builtin_convertvector(__builtin_convertvector(shorts, Ints), Keys);
  }
  static HASHFAST_INLINE Signs narrow(Keys signs) {
    const Ints ints = __builtin_convertvector(signs, Ints);
    return __builtin_convertvector(__builtin_convertvector(ints, Shorts), Signs);
  }

  // A key orders like its value: both zeros equal, NaN last.
  static HASHFAST_INLINE Keys keys(Values values) {
    const Values unsigned_zero = values + Value{0};
    const Keys bits = reinterpret_cast<Keys>(unsigned_zero);
    const Keys ordered = bits ^ ((bits >> (8 * sizeof(Key) - 1)) & kMost);
    return values != values ? all(kNan) : ordered;
  }
  static HASHFAST_INLINE Values values(Keys keys) {
    return reinterpret_cast<Values>(keys ^ ((keys >> (8 * sizeof(Key) - 1)) & kMost));
  }
  // Their mean, rounded down, without overflow.
  static HASHFAST_INLINE Keys middle(Keys a, Keys b) { return (a & b) + ((a ^ b) >> 1); }
  // Good to a few percent.
  static HASHFAST_INLINE Values square_root(Values x) {
    return reinterpret_cast<Values>(all(Base::kSquareRoot) + (reinterpret_cast<Keys>(x) >> 1));
  }
};

// Conversions of vectors, lane by lane; L is a Lanes of float.
template <class L>
HASHFAST_INLINE typename L::Values widened(BFloat, typename L::Halves bits) {
  return reinterpret_cast<typename L::Values>(__builtin_convertvector(bits, typename L::Words)
                                              << 16);
}

template <class L>
HASHFAST_INLINE typename L::Values widened(Half, typename L::Halves halves) {
  using Words = typename L::Words;
  const Words bits = __builtin_convertvector(halves, Words);
  const Words magnitude = (bits & 0x7fff) << 13, exponent = magnitude & 0x0f800000;
  // Exponents are biased by 127 instead of 15; that of infinity and NaN is the largest.
  const Words normal =
      magnitude + 0x38000000 + (exponent == 0x0f800000 ? Words{} + 0x38000000 : Words{});
  // 2^-14 plus the value, minus 2^-14, is a subnormal value.
  const auto small = reinterpret_cast<typename L::Values>(magnitude + 0x38800000) - 0x1p-14f;
  const Words unsigned_bits = exponent == 0 ? reinterpret_cast<Words>(small) : normal;
  return reinterpret_cast<typename L::Values>(unsigned_bits | (bits & 0x8000) << 16);
}

// Rounded to nearest, ties to even.
template <class L>
HASHFAST_INLINE typename L::Halves narrowed(BFloat, typename L::Values values) {
  using Words = typename L::Words;
  const Words bits = reinterpret_cast<Words>(values);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words found = values != values ? Words{} + 0x7fc0 : rounded;
  return __builtin_convertvector(found, typename L::Halves);
}

template <class L>
HASHFAST_INLINE typename L::Halves narrowed(Half, typename L::Values values) {
  using Words = typename L::Words;
  const Words bits = reinterpret_cast<Words>(values), magnitude = bits & 0x7fffffff;
  // 0.5 is 2^24 times the smallest subnormal: adding it rounds to a multiple of that.
  const auto shifted = reinterpret_cast<typename L::Values>(magnitude) + 0.5f;
  const Words subnormal = reinterpret_cast<Words>(shifted) - 0x3f000000;
  const Words normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // From 65520 on values round to infinity.
  const Words finite = magnitude < 0x38800000 ? subnormal : normal;
  const Words large = magnitude > 0x7f800000 ? Words{} + 0x7e00 : Words{} + 0x7c00;
  const Words found = magnitude >= 0x477ff000 ? large : finite;
  return __builtin_convertvector(found | (bits >> 16 & 0x8000), typename L::Halves);
}

}  // namespace hashfast
