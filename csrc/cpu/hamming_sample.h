// Estimates how near the k-th nearest code of a query is, from a sample of the database.
#pragma once

#include <vector>

#include "hamming.h"

namespace hashfast {

// Rows spread over the database, eight at a time.
class Sample {
 public:
  Sample(const Sample&) = delete;
  // Codes that it pays to take when `wanted` of a database are searched for; 0 if none.
  static int64_t best_size(const Codes& database, int64_t wanted, int64_t queries);

  Sample(const Codes& database, Bitmap allowed, int64_t size);

  // For each query a distance within which the database very probably has `wanted` codes, and not
  // many more.
  void thresholds(const Codes& queries, int64_t wanted, int64_t* out) const;

 private:
  int64_t rows_;  // of the database
  Codes codes_;   // the sample: what was taken, or all of the database
  Bitmap allowed_;
  std::vector<uint8_t> taken_, taken_allowed_;
};

}  // namespace hashfast
