// A scan that keeps only codes near enough to be among a query's k nearest.
//
// The database is cut into chunks of rows, which blocks take in ascending order. Every code that is
// near enough is recorded, and counted at its distance; as soon as k are counted within a distance,
// nothing beyond it can be wanted. Nothing is guessed, so nothing has to be verified: counts are of
// codes that exist, and are never too high.
#pragma once

#include "hamming_device.cuh"

namespace hashfast {

// A query's limit: a distance, and a chunk from which on codes at that very distance come too late,
// because k at least as near lie in chunks before. The lower number is the tighter limit.
using Limit = unsigned long long;
__host__ __device__ constexpr Limit make_limit(int distance, unsigned chunk) {
  return static_cast<Limit>(distance) << 32 | chunk;
}
constexpr unsigned kEveryChunk = ~0u;

struct Filter {
  Limit* limits;       // [queries]
  unsigned* recorded;  // [queries] codes recorded, whether there was room or not
  unsigned* counts;    // [queries, bins] of them at each distance
  Key* hits;           // [queries, capacity]
  unsigned* taken;     // chunks taken so far, over all blocks of queries
  int bins;
  unsigned capacity;
  unsigned k;
};

// The largest distance that a code of the chunk may have; -1 for none. A code with every bit
// different is never kept: nothing tells it from a row that is not there (see the selection).
__device__ __forceinline__ int largest_distance(Limit limit, unsigned chunk, int bits) {
  const int distance = static_cast<int>(limit >> 32) - (chunk >= static_cast<unsigned>(limit));
  return min(distance, bits - 1);
}

__device__ __forceinline__ void record(const Filter& filter, int64_t query, int distance,
                                       int64_t row) {
  atomicAdd(&filter.counts[query * filter.bins + distance], 1u);
  const unsigned place = atomicAdd(&filter.recorded[query], 1u);
  if (place < filter.capacity)
    filter.hits[query * filter.capacity + place] = make_key(distance, row);
  else
    atomicMin(&filter.limits[query], make_limit(0, 0));  // given up: no more of it is wanted
}

struct Cut {
  int distance;    // the least within which k are counted; bins if there are fewer
  unsigned below;  // counted at less than that
};

// By a whole warp: where the first `last` + 1 counts reach k. Counts may grow meanwhile.
__device__ __forceinline__ Cut find_cut(const volatile unsigned* counts, int bins, int last,
                                        unsigned k) {
  const int lane = threadIdx.x % 32;
  unsigned below = 0;
  for (int first = 0; first <= last; first += 32) {
    const int distance = first + lane;
    // No more than k each: sums of so many cannot overflow.
    unsigned sum = distance <= last ? min(unsigned{counts[distance]}, k) : 0;
    const unsigned own = sum;
    for (int step = 1; step < 32; step *= 2) {
      const unsigned other = __shfl_up_sync(kFullWarp, sum, step);
      if (lane >= step) sum += other;
    }
    const unsigned reached = __ballot_sync(kFullWarp, below + sum >= k);
    if (reached) {
      const int at = __ffs(reached) - 1;
      return {first + at, below + __shfl_sync(kFullWarp, sum - own, at)};
    }
    below += __shfl_sync(kFullWarp, sum, 31);
  }
  return {bins, below};
}

// By a whole warp: lowers a query's limit to what its counts allow. Chunks of its block of queries
// are those from ticket `first` on.
__device__ __forceinline__ void tighten(const Filter& filter, int64_t query, unsigned first) {
  const int last = static_cast<int>(__ldcg(&filter.limits[query]) >> 32);
  const Cut cut = find_cut(filter.counts + query * filter.bins, filter.bins, last, filter.k);
  if (cut.distance > last || threadIdx.x % 32 != 0) return;
  // Whatever was counted lies in chunks that were taken before they are counted here.
  __threadfence();
  const unsigned chunk = atomicAdd(filter.taken, 0u) - first;
  atomicMin(&filter.limits[query], make_limit(cut.distance, chunk));
}

// Lowers the limits of the queries of a block for which something was recorded; a warp a query.
__device__ __forceinline__ void tighten_touched(const Filter& filter, int* touched, int queries,
                                                int64_t first_query, unsigned first_ticket) {
  const int lane = threadIdx.x % 32;
  for (int base = threadIdx.x - lane; base < queries; base += blockDim.x) {
    const bool mine = base + lane < queries && touched[base + lane];
    unsigned left = __ballot_sync(kFullWarp, mine);
    if (mine) touched[base + lane] = 0;
    for (; left; left &= left - 1)
      tighten(filter, first_query + base + __ffs(left) - 1, first_ticket);
  }
}

}  // namespace hashfast
