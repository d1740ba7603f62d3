#include "hamming_sample.h"

#include <cmath>
#include <cstring>

namespace hashfast {
namespace {

// How many codes of a sample should be nearer than the threshold, so that the database has
// `wanted`: four deviations beyond the mean.
int64_t least_of(int64_t size, int64_t rows, int64_t wanted) {
  if (size == rows) return wanted;
  const double mean = static_cast<double>(wanted) * size / rows;
  return static_cast<int64_t>(std::ceil(mean + 4 * std::sqrt(mean) + 4));
}

}  // namespace

int64_t Sample::best_size(int64_t rows, int64_t wanted, int64_t queries) {
  // The costs of a query, in those of keeping one code that is not wanted: about 1/100 to count a
  // code of the sample, and 1, for all queries together, to take it from the database.
  int64_t best = 0;
  double least_cost = wanted * std::log2(static_cast<double>(rows) / wanted);  // without one
  const auto consider = [&](int64_t size) {
    const double kept = static_cast<double>(least_of(size, rows, wanted)) * rows / size;
    const double cost = kept + size * (0.01 + 1.0 / queries);
    if (cost >= least_cost) return;
    least_cost = cost;
    best = size;
  };
  for (int64_t size = 4096; size <= rows / 8; size *= 2) consider(size);
  if (rows % 8 == 0) consider(rows);
  return best;
}

Sample::Sample(const Codes& database, Bitmap allowed, int64_t size)
    : rows_(database.rows), bytes_(database.bytes) {
  constexpr int64_t kRun = 8;
  const int64_t runs = size / kRun;
  const int64_t all = database.rows / kRun;
  codes_.resize(runs * kRun * bytes_);
  if (allowed) allowed_.resize(runs);
  torch::stable::parallel_for(0, runs, 512, [&](int64_t begin, int64_t end) {
    constexpr int64_t kAhead = 16;  // each run is a cache miss
    for (int64_t run = begin; run < end; ++run) {
      const int64_t from = all * run / runs;
      __builtin_prefetch(database.row(kRun * (all * std::min(run + kAhead, runs - 1) / runs)));
      std::memcpy(codes_.data() + run * kRun * bytes_, database.row(kRun * from), kRun * bytes_);
      if (allowed) allowed_[run] = allowed[from];
    }
  });
}

void Sample::thresholds(const Codes& queries, int64_t wanted, int64_t* out) const {
  const Codes codes(codes_.data(), codes_.size() / bytes_, bytes_);
  const int64_t bins = queries.bins(), least = least_of(codes.rows, rows_, wanted);
  torch::stable::parallel_for(0, queries.rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> counts((end - begin) * bins, 0);
    Blocks blocks(codes, {0, codes.rows}, allowed_.empty() ? nullptr : allowed_.data(),
                  hamming_kernels().slice, end - begin);
    histogram(queries, {begin, end}, blocks, EveryRow{}, counts.data());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t* of_query = counts.data() + (i - begin) * bins;
      int64_t distance = 0;
      for (int64_t sum = of_query[0]; sum < least && distance < bins - 1;)
        sum += of_query[++distance];
      out[i] = distance;
    }
  });
}

}  // namespace hashfast
