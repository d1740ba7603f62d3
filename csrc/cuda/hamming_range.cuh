// Rows within a radius: their number, and themselves in (distance, row) order.
#pragma once

#include "hamming_ordered.cuh"

namespace hashfast {
namespace range {

constexpr int kQueries = 4;  // to which a warp measures a row that it has read

// counts [q] starts at zero; a warp adds a segment's to kQueries of them.
template <class Format>
__global__ void __launch_bounds__(ordered::kMostWarps* ordered::kWarp)
    count_within(const uint8_t* __restrict__ queries, const uint8_t* __restrict__ database,
                 const uint8_t* __restrict__ allowed, int64_t q, int64_t n, int bytes, int radius,
                 int64_t groups, int64_t rows_each, unsigned long long* counts) {
  const int64_t warp =
      blockIdx.x * int64_t{blockDim.x / ordered::kWarp} + threadIdx.x / ordered::kWarp;
  const int lane = threadIdx.x % ordered::kWarp;
  const int64_t first = warp % groups * kQueries, begin = warp / groups * rows_each;
  const int64_t end = min(begin + rows_each, n);
  if (begin >= end) return;
  const rows::QueryCodes<Format, kQueries> codes(queries, first, q, bytes);
  unsigned within[kQueries] = {};
#pragma unroll(Format::kWhole ? 4 : 1)
  for (int64_t row = begin + lane; row < end; row += ordered::kWarp) {
    if (!is_allowed(allowed, row)) continue;
    int distances[kQueries];
    codes.distances(database + row * bytes, distances);
#pragma unroll
    for (int j = 0; j < kQueries; ++j) within[j] += distances[j] <= radius;
  }
#pragma unroll
  for (int j = 0; j < kQueries; ++j) {
    const unsigned all = warp_sum(within[j]);
    if (lane == 0 && all && first + j < q) atomicAdd(&counts[first + j], all);
  }
}

// One block. status[0]: the number of results; status[1]: whether limits do not start at 0 or
// decrease (2), or are not those of the totals (1).
static __global__ void __launch_bounds__(1024)
    check_limits(int64_t q, const int64_t* limits, const int64_t* totals, int64_t* status) {
  int wrong = threadIdx.x == 0 && limits[0] != 0, other = 0;
  for (int64_t i = threadIdx.x; i < q; i += blockDim.x) {
    wrong |= limits[i + 1] < limits[i];
    other |= limits[i + 1] - limits[i] != totals[i];
  }
  wrong = __syncthreads_or(wrong);
  other = __syncthreads_or(other);
  if (threadIdx.x == 0) {
    status[0] = limits[q];
    status[1] = wrong ? 2 : other ? 1 : 0;
  }
}

}  // namespace range

struct RangeSearch {
  const uint8_t *queries, *database, *allowed;
  int64_t q, n;  // n < 2^32
  int bytes;
  int64_t radius;
};

// How many rows are within the radius of each query: counts [q].
template <class Launch>
void range_count(const Launch& launch, const RangeSearch& search, int64_t* counts) {
  launch.zero(counts, search.q * sizeof(int64_t));
  if (search.q == 0 || search.n == 0 || search.radius < 0) return;
  const int64_t groups = parts(search.q, range::kQueries);
  const int64_t most = parts(search.n, ordered::kLeastRows);
  const int64_t wanted = 2 * ordered::kWarpsEach * launch.processors() / groups;
  // Fewer than 2^31 rows a segment, whose counts are 32 bits.
  const int64_t least = (search.n >> 31) + 1;
  const int64_t segments = std::max(std::clamp<int64_t>(wanted, 1, most), least);
  const int64_t rows_each = parts(search.n, segments);
  const int64_t warps = groups * segments;
  const auto radius = static_cast<int>(std::min<int64_t>(search.radius, 8 * search.bytes));
  rows::with_format(search.queries, search.database, search.bytes, [&](auto format) {
    launch(range::count_within<decltype(format)>,
           dim3(static_cast<unsigned>(parts(warps, ordered::kMostWarps))),
           ordered::kMostWarps * ordered::kWarp, 0, search.queries, search.database, search.allowed,
           search.q, search.n, search.bytes, radius, groups, rows_each,
           reinterpret_cast<unsigned long long*>(counts));
  });
}

// Finds the rows in two parts, between which the caller reads `status` [2] and makes room:
// status[0] results, if status[1] is 0. Between the parts the workspace is left alone.
class RangeFind {
 public:
  RangeFind(const RangeSearch& search, int processors, int64_t most = ordered::kWorkspace)
      : processors_(processors), most_(most) {
    job_.queries = search.queries;
    job_.database = search.database;
    job_.allowed = search.allowed;
    job_.q = search.q;
    job_.n = search.n;
    job_.bytes = search.bytes;
    job_.bins = static_cast<int>(std::clamp<int64_t>(search.radius, -1, 8 * search.bytes)) + 1;
    job_.kinds = 1;
    if (job_.bins > 0) ordered::plan(job_, processors, most);
  }

  size_t workspace_bytes() const {
    return ordered::round_up(job_.q * sizeof(int64_t)) +
           (job_.bins > 0 ? ordered::workspace_bytes(job_, processors_, most_) : 0);
  }

  template <class Launch>
  void count(const Launch& launch, const int64_t* limits, void* workspace, int64_t* status) {
    auto* const totals = static_cast<int64_t*>(workspace);
    limits_ = limits;
    if (job_.bins > 0) {
      ordered::use_workspace(job_, static_cast<unsigned char*>(workspace) +
                                       ordered::round_up(job_.q * sizeof(int64_t)));
      ordered::for_groups(job_, [&](const ordered::Job& job, int64_t queries) {
        count(launch, job, queries, totals);
      });
    } else {
      launch.zero(totals, job_.q * sizeof(int64_t));
    }
    launch(range::check_limits, dim3(1), 1024, 0, job_.q, limits, totals, status);
  }

  template <class Launch>
  void place(const Launch& launch, int* distances, int64_t* ids) const {
    if (job_.bins == 0) return;
    const ordered::Output output{distances, ids, nullptr, limits_, 0};
    ordered::for_groups(job_, [&](const ordered::Job& job, int64_t queries) {
      if (queries < job_.q)
        count(launch, job, queries, nullptr);  // those of a single group are still there
      ordered::place<false>(launch, job, queries, ordered::kUnlimited, output);
    });
  }

 private:
  template <class Launch>
  void count(const Launch& launch, const ordered::Job& job, int64_t queries,
             int64_t* totals) const {
    ordered::count<false, false>(launch, job, queries, ordered::kUnlimited, {}, totals);
  }

  ordered::Job job_{};
  int processors_;
  int64_t most_;
  const int64_t* limits_ = nullptr;
};

}  // namespace hashfast
