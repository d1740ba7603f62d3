// Exact results in (distance, row) order by counting, for any codes and any number of results.
//
// A query's rows are cut into segments, one a warp. `count_rows` counts every segment's distances;
// `make_starts` turns the counts, which lie by (distance, segment), into positions in the ranking;
// `place_rows` walks a segment again and puts its rows where they belong. Nothing is sorted, no
// block waits, and the result depends on no timing.
#pragma once

#include <algorithm>

#include "hamming_device.cuh"
#include "hamming_labels.cuh"
#include "hamming_rows.cuh"

namespace hashfast {
namespace ordered {

constexpr int kWarp = 32, kMostWarps = 8;         // a block of count_rows and place_rows
constexpr int kStartsThreads = 1024, kItems = 8;  // a block of make_starts, and entries of a thread
constexpr int kFar = kPaddingDistance;            // the distance of rows that do not count, too
constexpr int64_t kWorkspace = int64_t{256} << 20;
constexpr int64_t kLeastRows = 512;  // of a segment: its counters take as long as so many
// Warps of a multiprocessor that keep its memory busy with 4 codes a lane, and segments that keep
// the GPU busy when only a few queries of many are not left alone.
constexpr int64_t kWarpsEach = 16, kSegments = 64;

// How far a ranking goes: through the entries before `entry`, and `admitted` rows of that one.
struct Border {
  int64_t entry;
  unsigned admitted;
  int cut;  // the largest distance with a row in it
};

struct Job {
  const uint8_t *queries, *database, *allowed;
  const int* only;          // null, or 0 for queries that are left alone
  const int64_t* left_out;  // null, or the row that a query's ranking leaves out
  LabelPointers labels;
  int64_t q, n;
  int bytes, bins;         // distances from `bins` on do not count
  int kinds;               // 1: entries of rows; 2: then those of rows that share the query's class
  bool in_shared;          // counters: in shared memory, or in the entries themselves
  int warps;               // a block
  int64_t first, group;    // the queries that are searched at once
  int64_t segments, rows;  // segments of a query, rows of a segment
  unsigned* starts;        // [group, kinds, bins x segments and one for the total]
  Border* borders;         // [group]

  __host__ __device__ int64_t entries() const { return bins * segments; }
  __device__ unsigned* starts_of(int64_t query, int kind) const {
    return starts + ((query - first) * kinds + kind) * (entries() + 1);
  }
};

// Where results go: those of a query at k x query, or from its limit on.
struct Output {
  int* distances;
  int64_t* ids;
  int* ranks;  // instead of distances and ids: ranks of rows that share the query's class
  const int64_t* limits;
  int64_t k;
};

constexpr int64_t kUnlimited = 0xFFFFFFFF;  // rows are fewer than 2^32

constexpr size_t round_up(size_t bytes) { return (bytes + 15) / 16 * 16; }

// Cuts a search into segments and groups of queries, whose entries take about `workspace` bytes at
// most; pointers are left to the caller.
inline void plan(Job& job, int processors, int64_t workspace) {
  const int64_t entry = job.kinds * static_cast<int64_t>(sizeof(unsigned));
  const int64_t room = workspace / (job.bins * entry);
  const int64_t wanted =
      std::max<int64_t>(kSegments, kWarpsEach * processors / std::max<int64_t>(job.q, 1));
  const int64_t most = std::max<int64_t>(std::min({wanted, parts(job.n, kLeastRows), room}), 1);
  job.rows = std::max<int64_t>(parts(parts(job.n, most), 128), 1) * 128;
  job.segments = std::max<int64_t>(parts(job.n, job.rows), 1);
  job.group = std::clamp<int64_t>(workspace / ((job.entries() + 1) * entry), 1,
                                  std::max<int64_t>(job.q, 1));
  const size_t counters = job.bins * static_cast<size_t>(entry);
  job.warps = kMostWarps;
  while (job.warps > 1 && job.warps * counters > kSharedMemory) job.warps /= 2;
  job.in_shared = counters <= kSharedMemory;
  if (!job.in_shared) job.warps = kMostWarps;
}

// What a search needs that was planned with this `workspace`, and any of fewer queries too: they
// have more segments each, but not more in all.
inline size_t workspace_bytes(const Job& job, int processors, int64_t workspace) {
  const int64_t entry = job.kinds * static_cast<int64_t>(sizeof(unsigned));
  const int64_t segments = std::min(std::max(kSegments * job.q, kWarpsEach * processors),
                                    job.q * std::max<int64_t>(parts(job.n, kLeastRows), 1));
  const int64_t all = (job.bins * segments + job.q) * entry;
  const int64_t one = (job.bins + 1) * entry;
  return round_up(std::min(job.q, workspace / one + 1) * sizeof(Border)) +
         round_up(std::min(all, workspace + one));
}

inline void use_workspace(Job& job, void* workspace) {
  job.borders = static_cast<Border*>(workspace);
  job.starts = reinterpret_cast<unsigned*>(static_cast<unsigned char*>(workspace) +
                                           round_up(job.group * sizeof(Border)));
}

// One warp's share: a segment of a query. Neighbouring warps have neighbouring queries, so that
// they read the same rows.
struct Share {
  int lane;
  bool idle;
  int64_t query, segment, begin, end;

  __device__ explicit Share(const Job& job, int64_t queries) : lane(threadIdx.x % kWarp) {
    const int64_t warp = blockIdx.x * int64_t{blockDim.x / kWarp} + threadIdx.x / kWarp;
    query = job.first + warp % queries;
    segment = warp / queries;
    idle = segment >= job.segments || (job.only && !job.only[query]);
    begin = segment * job.rows;
    end = min(begin + job.rows, job.n);
  }
};

struct Counters {
  unsigned *rows, *related;
  int64_t stride;
};

template <class Format>
__device__ __forceinline__ Counters counters_of(const Job& job, const Share& share,
                                                unsigned char* shared) {
  if (Format::kWhole || job.in_shared) {
    unsigned* const at =
        reinterpret_cast<unsigned*>(shared) + threadIdx.x / kWarp * job.kinds * job.bins;
    return {at, at + job.bins, 1};
  }
  unsigned* const at = job.starts_of(share.query, 0) + share.segment;
  return {at, at + job.entries() + 1, job.segments};
}

// Rows of a lane whose codes are read before any is looked at.
template <class Format>
constexpr int kSteps = Format::kWhole ? 4 : 1;

// Distances of rows base + 32 step + lane, kFar for those that do not count.
template <class Format>
__device__ __forceinline__ void measure(const Job& job, const Share& share,
                                        const rows::QueryCodes<Format, 1>& code, int64_t left_out,
                                        int64_t base, int (&found)[kSteps<Format>]) {
  int distances[kSteps<Format>][1];
  bool counts[kSteps<Format>];
#pragma unroll
  for (int step = 0; step < kSteps<Format>; ++step) {
    const int64_t row = base + step * kWarp + share.lane, read = min(row, share.end - 1);
    counts[step] = row < share.end && row != left_out && is_allowed(job.allowed, read);
    // Short codes are all read without a question, for their reads to be under way together.
    if (Format::kWhole || counts[step])
      code.distances(job.database + read * job.bytes, distances[step]);
  }
#pragma unroll
  for (int step = 0; step < kSteps<Format>; ++step)
    found[step] = counts[step] ? distances[step][0] : kFar;
}

template <class Format, bool Labelled>
__global__ void __launch_bounds__(kMostWarps* kWarp) count_rows(const Job job, int64_t queries) {
  HASHFAST_DYNAMIC_SHARED(shared);
  const Share share(job, queries);
  if (share.idle) return;
  const Counters counters = counters_of<Format>(job, share, shared);
  for (int d = share.lane; d < job.bins; d += kWarp) {
    counters.rows[d * counters.stride] = 0;
    if constexpr (Labelled) counters.related[d * counters.stride] = 0;
  }
  __syncwarp();

  const rows::QueryCodes<Format, 1> code(job.queries, share.query, job.q, job.bytes);
  const QueryLabels<Labelled, 1> labels(job.labels, share.query, job.q);
  const int64_t left_out = job.left_out ? job.left_out[share.query] : -1;
  for (int64_t base = share.begin; base < share.end; base += kSteps<Format> * kWarp) {
    int found[kSteps<Format>];
    measure<Format>(job, share, code, left_out, base, found);
#pragma unroll
    for (int step = 0; step < kSteps<Format>; ++step) {
      if (found[step] >= job.bins) continue;
      atomicAdd(&counters.rows[found[step] * counters.stride], 1u);
      if constexpr (Labelled) {
        bool related[1];
        labels.share(base + step * kWarp + share.lane, related);
        if (related[0]) atomicAdd(&counters.related[found[step] * counters.stride], 1u);
      }
    }
  }
  __syncwarp();

  if (!Format::kWhole && !job.in_shared) return;
  unsigned* const starts = job.starts_of(share.query, 0) + share.segment;
  for (int d = share.lane; d < job.bins; d += kWarp) {
    starts[d * job.segments] = counters.rows[d];
    if constexpr (Labelled) starts[job.entries() + 1 + d * job.segments] = counters.related[d];
  }
}

// A block a query and kind. Counts become the positions at which the entries start, the last one
// being the total; and it is found where the ranking reaches k rows. `padded` results are filled
// up. Queries' totals are written where there is room for them.
template <bool Padded>
__global__ void __launch_bounds__(kStartsThreads, 1)
    make_starts(const Job job, unsigned k, const Output padded, int64_t* totals) {
  __shared__ unsigned sums[kWarp];
  __shared__ Border border;
  const int64_t query = job.first + blockIdx.x;
  if (job.only && !job.only[query]) return;
  unsigned* const starts = job.starts_of(query, blockIdx.y);
  const int64_t entries = job.entries();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (threadIdx.x == 0) border = {entries, 0, job.bins - 1};
  if (threadIdx.x < kWarp) sums[threadIdx.x] = 0;

  unsigned before = 0;
  for (int64_t tile = 0; tile < entries; tile += int64_t{blockDim.x} * kItems) {
    const int64_t mine = tile + int64_t{threadIdx.x} * kItems;
    unsigned counts[kItems], sum = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      counts[i] = mine + i < entries ? starts[mine + i] : 0;
      sum += counts[i];
    }
    unsigned through = sum;  // of this warp's lanes up to this one
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const unsigned other = __shfl_up_sync(kFullWarp, through, step);
      if (lane >= step) through += other;
    }
    __syncthreads();
    if (lane == kWarp - 1) sums[warp] = through;
    __syncthreads();
    const unsigned other = sums[lane];
    unsigned start = before + through - sum + warp_sum(lane < warp ? other : 0);
    before += warp_sum(other);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (mine + i >= entries) break;
      starts[mine + i] = start;
      if (start < k && counts[i] >= k - start) {  // so in one entry at most
        const bool whole = counts[i] == k - start;
        border = {mine + i + whole, whole ? 0 : k - start,
                  static_cast<int>((mine + i) / job.segments)};
      }
      start += counts[i];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    starts[entries] = before;
    if (blockIdx.y == 0) job.borders[blockIdx.x] = border;
    if (blockIdx.y == 0 && totals) totals[query] = before;
  }
  if constexpr (Padded) {
    for (int64_t i = before + int64_t{threadIdx.x}; i < padded.k; i += blockDim.x) {
      padded.distances[query * padded.k + i] = kPaddingDistance;
      padded.ids[query * padded.k + i] = -1;
    }
  }
}

template <class Format, bool Labelled>
__global__ void __launch_bounds__(kMostWarps* kWarp)
    place_rows(const Job job, int64_t queries, unsigned k, const Output output) {
  HASHFAST_DYNAMIC_SHARED(shared);
  const Share share(job, queries);
  if (share.idle) return;
  const Counters counters = counters_of<Format>(job, share, shared);
  const int cut = job.borders[share.query - job.first].cut;
  unsigned left = ~0u;  // rows to place, if it is known
  if (Format::kWhole || job.in_shared) {
    const unsigned* const starts = job.starts_of(share.query, 0) + share.segment;
    left = 0;
    for (int d = share.lane; d <= cut; d += kWarp) {
      const unsigned start = starts[d * job.segments];
      left += min(starts[d * job.segments + 1], k) - min(start, k);
      counters.rows[d] = start;
      if constexpr (Labelled) counters.related[d] = starts[job.entries() + 1 + d * job.segments];
    }
    left = warp_sum(left);
    __syncwarp();
  }

  const rows::QueryCodes<Format, 1> code(job.queries, share.query, job.q, job.bytes);
  const QueryLabels<Labelled, 1> labels(job.labels, share.query, job.q);
  const int64_t left_out = job.left_out ? job.left_out[share.query] : -1;
  const int64_t to = output.limits ? output.limits[share.query] : share.query * output.k;
  for (int64_t base = share.begin; base < share.end && left; base += kSteps<Format> * kWarp) {
    int found[kSteps<Format>];
    measure<Format>(job, share, code, left_out, base, found);
#pragma unroll
    for (int step = 0; step < kSteps<Format>; ++step) {
      const int64_t row = base + step * kWarp + share.lane;
      const int d = found[step];
      const unsigned hits = __ballot_sync(kFullWarp, d <= cut);
      if (!hits) continue;
      bool related[1] = {false};
      unsigned relevant = 0;
      if constexpr (Labelled) {
        if (d <= cut) labels.share(row, related);
        relevant = __ballot_sync(kFullWarp, related[0]);
      }
      bool placed = false;
      if (d <= cut) {
        const unsigned peers = __match_any_sync(hits, d);
        const unsigned earlier = peers & ((1u << share.lane) - 1);
        const unsigned position = counters.rows[d * counters.stride] + __popc(earlier);
        unsigned hit = 0;  // the position among those that share the class
        if constexpr (Labelled)
          hit = counters.related[d * counters.stride] + __popc(earlier & relevant);
        __syncwarp(hits);
        if (!earlier) {
          counters.rows[d * counters.stride] = position + __popc(peers);
          if constexpr (Labelled)
            counters.related[d * counters.stride] = hit + __popc(peers & relevant);
        }
        placed = position < k;
        if constexpr (Labelled) {
          if (placed && related[0]) output.ranks[to + hit] = static_cast<int>(position + 1);
        } else if (placed) {
          output.distances[to + position] = d;
          output.ids[to + position] = row;
        }
      }
      left -= __popc(__ballot_sync(kFullWarp, placed));
      __syncwarp();  // the next step reads the counters
    }
  }
}

// Positions are below 2^32.
inline unsigned clamped(int64_t k) {
  return static_cast<unsigned>(std::min<int64_t>(k, 0xFFFFFFFF));
}

// Calls call(job, queries) for one group of queries after another.
template <class Call>
void for_groups(Job job, const Call& call) {
  for (job.first = 0; job.first < job.q; job.first += job.group)
    call(job, std::min(job.group, job.q - job.first));
}

inline unsigned blocks(const Job& job, int64_t queries) {
  return static_cast<unsigned>(parts(queries * job.segments, job.warps));
}

inline size_t shared_bytes(const Job& job) {
  return job.in_shared ? size_t(job.warps) * job.kinds * job.bins * sizeof(unsigned) : 0;
}

template <bool Labelled, bool Padded, class Launch>
void count(const Launch& launch, const Job& job, int64_t queries, int64_t k, const Output& padded,
           int64_t* totals) {
  rows::with_format(job.queries, job.database, job.bytes, [&](auto format) {
    launch(count_rows<decltype(format), Labelled>, dim3(blocks(job, queries)), job.warps * kWarp,
           shared_bytes(job), job, queries);
  });
  const int64_t warps = parts(job.entries(), kWarp * kItems);
  launch(make_starts<Padded>, dim3(static_cast<unsigned>(queries), job.kinds),
         static_cast<int>(std::min<int64_t>(warps * kWarp, kStartsThreads)), 0, job, clamped(k),
         padded, totals);
}

template <bool Labelled, class Launch>
void place(const Launch& launch, const Job& job, int64_t queries, int64_t k, const Output& output) {
  rows::with_format(job.queries, job.database, job.bytes, [&](auto format) {
    launch(place_rows<decltype(format), Labelled>, dim3(blocks(job, queries)), job.warps * kWarp,
           shared_bytes(job), job, queries, clamped(k), output);
  });
}

}  // namespace ordered

}  // namespace hashfast
