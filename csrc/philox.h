// Philox-4x32-10 (Salmon et al. 2011); the same words as hashfast/ops/_philox.py.
#pragma once

#include <array>
#include <cstdint>

namespace hashfast {

inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  auto [c0, c1, c2, c3] = counter;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {c0, c1, c2, c3};
}

// Binomial(n, 1/2): the ones among the first n random bits of `column`.
inline int64_t binomial_half(uint64_t seed, int64_t n, uint32_t column) {
  int64_t ones = 0;
  for (int64_t block = 0; block * 128 < n; ++block) {
    const auto words = philox({static_cast<uint32_t>(block), 0, column, 0}, seed);
    for (int w = 0; w < 4; ++w) {
      const int64_t used = n - 128 * block - 32 * w;
      if (used <= 0) break;
      const uint32_t mask = used >= 32 ? ~uint32_t{0} : (uint32_t{1} << used) - 1;
      ones += __builtin_popcount(words[w] & mask);
    }
  }
  return ones;
}

}  // namespace hashfast
