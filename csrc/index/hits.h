// Rows that a search found.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace hashfast::index {

// Sorts as (distance, row).
using Key = uint64_t;
inline Key key_of(int64_t distance, uint32_t row) {
  return static_cast<uint64_t>(distance) << 32 | row;
}

// The k nearest rows among those added.
class Nearest {
 public:
  Nearest(int64_t k, int64_t bits) : k_(k), threshold_(bits), counts_(bits + 1) {
    keys_.reserve(kFirstRoom);
  }

  // The largest distance that may still be among the k nearest.
  int64_t threshold() const { return threshold_; }
  // Whether the result is known once every row within the radius has been added.
  bool complete(int64_t radius) const { return total_ >= k_ && threshold_ <= radius; }
  // How many rows of equal distance can be needed.
  int64_t most() const { return k_; }

  // False when neither this row nor a later one of the same distance is among the nearest.
  bool add(int64_t distance, uint32_t row) {
    const Key key = key_of(distance, row);
    if (distance > threshold_ || key >= limit_) return false;
    keys_.push_back(key);
    ++counts_[distance];
    ++total_;
    while (total_ - counts_[threshold_] >= k_) total_ -= counts_[threshold_--];
    if (static_cast<int64_t>(keys_.size()) >= std::max<int64_t>(2 * k_, kLeastRoom)) keep_nearest();
    return true;
  }

  // The nearest in order, at most k.
  const std::vector<Key>& sorted() {
    if (static_cast<int64_t>(keys_.size()) > k_) keep_nearest();
    std::sort(keys_.begin(), keys_.end());
    return keys_;
  }

 private:
  static constexpr int64_t kFirstRoom = 128, kLeastRoom = 4096;

  void keep_nearest() {
    std::nth_element(keys_.begin(), keys_.begin() + (k_ - 1), keys_.end());
    keys_.resize(k_);
    limit_ = keys_.back();
    threshold_ = static_cast<int64_t>(limit_ >> 32);
    total_ = k_;
    std::fill(counts_.begin(), counts_.end(), 0);
    for (const Key key : keys_) ++counts_[key >> 32];
  }

  int64_t k_, threshold_;
  int64_t total_ = 0;            // keys within the threshold
  std::vector<int64_t> counts_;  // keys of each distance up to the threshold
  std::vector<Key> keys_;
  Key limit_ = std::numeric_limits<Key>::max();  // keys from here on are not needed
};

// All rows within a radius.
class Within {
 public:
  explicit Within(int64_t radius) : radius_(radius) {}

  int64_t threshold() const { return radius_; }
  bool complete(int64_t radius) const { return radius_ <= radius; }
  int64_t most() const { return std::numeric_limits<int64_t>::max(); }
  bool add(int64_t distance, uint32_t row) {
    keys_.push_back(key_of(distance, row));
    return true;
  }
  const std::vector<Key>& sorted() {
    std::sort(keys_.begin(), keys_.end());
    return keys_;
  }

 private:
  int64_t radius_;
  std::vector<Key> keys_;
};

}  // namespace hashfast::index
