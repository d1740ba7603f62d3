// Estimates how near the k-th nearest code of a query is, from a sample of the database.
#pragma once

#include <vector>

#include "hamming.h"

namespace hashfast {

// Rows spread over the database, eight at a time.
class Sample {
 public:
  // Codes that it pays to take when `wanted` of so many rows are searched for; 0 if none.
  static int64_t best_size(int64_t rows, int64_t wanted, int64_t queries);

  Sample(const Codes& database, Bitmap allowed, int64_t size);

  // For each query a distance within which the database very probably has `wanted` codes, and not
  // many more.
  void thresholds(const Codes& queries, int64_t wanted, int64_t* out) const;

 private:
  int64_t rows_;  // of the database
  int64_t bytes_;
  std::vector<uint8_t> codes_, allowed_;
};

}  // namespace hashfast
