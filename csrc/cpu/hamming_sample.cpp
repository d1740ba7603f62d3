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

int64_t Sample::best_size(const Codes& database, int64_t wanted, int64_t queries) {
  // The costs of a query, in those of keeping one code that is not wanted: to count the codes of
  // the sample, and, for all queries together, to take them from the database.
  const int64_t rows = database.rows;
  const double each = hamming_kernels().histogram_cost(database.bytes);
  int64_t best = 0;
  double least_cost = wanted * std::log2(static_cast<double>(rows) / wanted);  // without one
  const auto consider = [&](int64_t size, double taking) {
    const double kept = static_cast<double>(least_of(size, rows, wanted)) * rows / size;
    const double cost = kept + size * (each + taking);
    if (cost >= least_cost) return;
    least_cost = cost;
    best = size;
  };
  for (int64_t size = 4096; size <= rows / 8; size *= 2) consider(size, 1.0 / queries);
  consider(rows, 0);
  return best;
}

Sample::Sample(const Codes& database, Bitmap allowed, int64_t size)
    : rows_(database.rows), codes_(database), allowed_(allowed) {
  if (size == rows_) return;
  constexpr int64_t kRun = 8;
  const int64_t runs = size / kRun, all = rows_ / kRun, width = kRun * database.bytes;
  taken_.resize(runs * width);
  if (allowed) taken_allowed_.resize(runs);
  torch::stable::parallel_for(0, runs, 512, [&](int64_t begin, int64_t end) {
    constexpr int64_t kAhead = 16;  // each run is a cache miss
    for (int64_t run = begin; run < end; ++run) {
      const int64_t from = all * run / runs;
      __builtin_prefetch(database.row(kRun * (all * std::min(run + kAhead, runs - 1) / runs)));
      std::memcpy(taken_.data() + run * width, database.row(kRun * from), width);
      if (allowed) taken_allowed_[run] = allowed[from];
    }
  });
  codes_ = Codes(taken_.data(), runs * kRun, database.bytes);
  if (allowed) allowed_ = taken_allowed_.data();
}

void Sample::thresholds(const Codes& queries, int64_t wanted, int64_t* out) const {
  const int64_t bins = queries.bins(), least = least_of(codes_.rows, rows_, wanted);
  torch::stable::parallel_for(0, queries.rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> counts((end - begin) * bins, 0);
    Blocks blocks(codes_, {0, codes_.rows}, allowed_, hamming_kernels().slice_for_histogram,
                  end - begin);
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
