// Where in its Hamming ranking a query finds items of its class.
#pragma once

#include "hamming_ordered.cuh"

namespace hashfast {
namespace hits {

// A warp a query: how many of its first k rows share its class, totals [q]. All of the entries
// before the border, and those that a walk of the border's segment finds.
template <class Format>
__global__ void __launch_bounds__(ordered::kMostWarps* ordered::kWarp)
    count_hits(const ordered::Job job, int64_t queries, int64_t* totals) {
  using ordered::kSteps, ordered::kWarp;
  ordered::Share share(job, queries);
  if (share.segment > 0) return;
  const ordered::Border border = job.borders[share.query - job.first];
  unsigned hits = job.starts_of(share.query, 1)[border.entry];
  if (border.admitted) {
    share.begin = border.entry % job.segments * job.rows;
    share.end = min(share.begin + job.rows, job.n);
  }
  const rows::QueryCodes<Format, 1> code(job.queries, share.query, job.q, job.bytes);
  const QueryLabels<true, 1> labels(job.labels, share.query, job.q);
  const int64_t left_out = job.left_out ? job.left_out[share.query] : -1;
  unsigned left = border.admitted;
  for (int64_t base = share.begin; left && base < share.end; base += kSteps<Format> * kWarp) {
    int found[kSteps<Format>];
    ordered::measure<Format>(job, share, code, left_out, base, found);
#pragma unroll
    for (int step = 0; step < kSteps<Format>; ++step) {
      const bool here = found[step] == border.cut;
      const unsigned rows = __ballot_sync(kFullWarp, here);
      bool related[1] = {false};
      if (here && __popc(rows & ((1u << share.lane) - 1)) < static_cast<int>(min(left, 32u)))
        labels.share(base + step * kWarp + share.lane, related);
      hits += __popc(__ballot_sync(kFullWarp, related[0]));
      left -= min(left, static_cast<unsigned>(__popc(rows)));
    }
  }
  if (share.lane == 0) totals[share.query] = hits;
}

// One block: limits [q + 1] out of totals [q].
static __global__ void __launch_bounds__(1024)
    make_limits(int64_t q, const int64_t* totals, int64_t* limits) {
  __shared__ int64_t sums[ordered::kWarp];
  const int lane = threadIdx.x % ordered::kWarp, warp = threadIdx.x / ordered::kWarp;
  int64_t before = 0;
  for (int64_t tile = 0; tile < q; tile += blockDim.x) {
    const int64_t query = tile + threadIdx.x;
    int64_t through = query < q ? totals[query] : 0;
    for (int step = 1; step < ordered::kWarp; step *= 2) {
      const int64_t other = __shfl_up_sync(kFullWarp, through, step);
      if (lane >= step) through += other;
    }
    __syncthreads();
    if (lane == ordered::kWarp - 1) sums[warp] = through;
    __syncthreads();
    const int64_t other = sums[lane];
    through += before + warp_sum(lane < warp ? other : 0);
    before += warp_sum(other);
    if (query < q) limits[query + 1] = through;
  }
  if (threadIdx.x == 0) limits[0] = 0;
}

}  // namespace hits

struct HitSearch {
  const uint8_t *queries, *database;
  int64_t q, n;  // n < 2^31
  int bytes;
  int64_t k;
  LabelPointers labels;
  const int64_t* left_out;  // null, or a row (or -1) a query
};

// Finds the ranks in two parts, between which the caller reads the last of `limits` [q + 1] and
// makes room for as many. Between the parts the workspace is left alone.
class HitFind {
 public:
  HitFind(const HitSearch& search, int processors, int64_t most = ordered::kWorkspace)
      : processors_(processors), most_(most), k_(search.k) {
    job_.queries = search.queries;
    job_.database = search.database;
    job_.labels = search.labels;
    job_.left_out = search.left_out;
    job_.q = search.q;
    job_.n = search.n;
    job_.bytes = search.bytes;
    job_.bins = 8 * search.bytes + 1;
    job_.kinds = 2;
    ordered::plan(job_, processors, most);
  }

  size_t workspace_bytes() const {
    return ordered::round_up(job_.q * sizeof(int64_t)) +
           ordered::workspace_bytes(job_, processors_, most_);
  }

  template <class Launch>
  void count(const Launch& launch, void* workspace, int64_t* limits) {
    auto* const totals = static_cast<int64_t*>(workspace);
    limits_ = limits;
    ordered::use_workspace(
        job_, static_cast<unsigned char*>(workspace) + ordered::round_up(job_.q * sizeof(int64_t)));
    ordered::for_groups(job_, [&](const ordered::Job& job, int64_t queries) {
      count(launch, job, queries);
      rows::with_format(job.queries, job.database, job.bytes, [&](auto format) {
        launch(
            hits::count_hits<decltype(format)>,
            dim3(static_cast<unsigned>((queries + ordered::kMostWarps - 1) / ordered::kMostWarps)),
            ordered::kMostWarps * ordered::kWarp, 0, job, queries, totals);
      });
    });
    launch(hits::make_limits, dim3(1), 1024, 0, job_.q, totals, limits);
  }

  template <class Launch>
  void place(const Launch& launch, int* ranks) const {
    const ordered::Output output{nullptr, nullptr, ranks, limits_, 0};
    ordered::for_groups(job_, [&](const ordered::Job& job, int64_t queries) {
      if (queries < job_.q) count(launch, job, queries);  // those of a single group are still there
      ordered::place<true>(launch, job, queries, k_, output);
    });
  }

 private:
  template <class Launch>
  void count(const Launch& launch, const ordered::Job& job, int64_t queries) const {
    ordered::count<true, false>(launch, job, queries, k_, {}, nullptr);
  }

  ordered::Job job_{};
  int processors_;
  int64_t most_;
  int64_t k_;
  const int64_t* limits_ = nullptr;
};

}  // namespace hashfast
