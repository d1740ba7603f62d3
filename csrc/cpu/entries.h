// Vectors of entries as they lie in memory, and of the values they are computed with.
#pragma once

#include "lanes.h"

namespace hashfast {

// Of as many entries as a vector of `Bytes` bytes holds values.
template <class Scalar, int Bytes>
struct Entries {  // 16-bit types
  using Value = float;
  using Base = Lanes<float, Bytes>;
  using Values = typename Base::Values;
  using Raw = typename Base::Halves;
  static HASHFAST_INLINE Values from_raw(Raw raw) { return widened<Base>(Scalar{}, raw); }
  static HASHFAST_INLINE Raw to_raw(Values values) { return narrowed<Base>(Scalar{}, values); }
};

template <class Floating, int Bytes>
struct EntriesAsIs {
  using Value = Floating;
  using Values = typename Lanes<Floating, Bytes>::Values;
  using Raw = Values;
  static HASHFAST_INLINE Values from_raw(Raw raw) { return raw; }
  static HASHFAST_INLINE Raw to_raw(Values values) { return values; }
};
template <int Bytes>
struct Entries<float, Bytes> : EntriesAsIs<float, Bytes> {};
template <int Bytes>
struct Entries<double, Bytes> : EntriesAsIs<double, Bytes> {};

// Lanes beyond `count` are zero.
template <class Scalar, int Bytes>
HASHFAST_INLINE typename Entries<Scalar, Bytes>::Values load_entries(const Scalar* from,
                                                                     int64_t count) {
  using E = Entries<Scalar, Bytes>;
  constexpr int64_t kLanes = Bytes / sizeof(typename E::Value);
  typename E::Raw raw{};
  if (count >= kLanes)
    std::memcpy(&raw, from, sizeof(raw));
  else
    for (int64_t lane = 0; lane < count; ++lane)
      std::memcpy(reinterpret_cast<Scalar*>(&raw) + lane, from + lane, sizeof(Scalar));
  return E::from_raw(raw);
}

template <class Scalar, int Bytes>
HASHFAST_INLINE void store_entries(typename Entries<Scalar, Bytes>::Values values, Scalar* to,
                                   int64_t count) {
  using E = Entries<Scalar, Bytes>;
  constexpr int64_t kLanes = Bytes / sizeof(typename E::Value);
  const typename E::Raw raw = E::to_raw(values);
  if (count >= kLanes)
    std::memcpy(to, &raw, sizeof(raw));
  else
    std::memcpy(to, &raw, count * sizeof(Scalar));
}

}  // namespace hashfast
