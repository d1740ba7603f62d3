// A scan that keeps only codes near enough to be among a query's k nearest.
//
// The database is cut into chunks of rows, which blocks take in ascending order. Every code that is
// near enough is recorded, and counted at its distance; as soon as k are counted within a distance,
// nothing beyond it can be wanted. Nothing is guessed, so nothing has to be verified: counts are of
// codes that exist, and are never too high.
#pragma once

#include <algorithm>

#include "hamming_device.cuh"

namespace hashfast {

// A query's limit: a distance, and a chunk from which on codes at that very distance come too late,
// because k at least as near lie in chunks before. The lower number is the tighter limit.
using Limit = unsigned long long;
__host__ __device__ constexpr Limit make_limit(int distance, unsigned chunk) {
  return static_cast<Limit>(distance) << 32 | chunk;
}
constexpr unsigned kEveryChunk = ~0u;

// How the database is cut. The first chunks are small, so that limits are soon known: until then
// the blocks that run at once record what lies within the limits of a sample.
struct Chunks {
  unsigned number, small;
  int small_rows, large_rows;

  // At most `wanted` small chunks, in a quarter of the rows.
  Chunks(int64_t n, int large, int64_t wanted) {
    small_rows = std::max(large / 8, 32);  // a warp takes 32 at a time
    large_rows = large;
    small = static_cast<unsigned>(std::min(wanted, n / 4 / large * (large / small_rows)));
    number = small + static_cast<unsigned>((n - first(small) + large - 1) / large);
  }
  __host__ __device__ int64_t first(unsigned chunk) const {
    return chunk < small ? int64_t{chunk} * small_rows
                         : int64_t{small} * small_rows + int64_t{chunk - small} * large_rows;
  }
  __host__ __device__ int size(unsigned chunk) const {
    return chunk < small ? small_rows : large_rows;
  }
  // The first chunk that has none of the first `head` rows.
  unsigned behind(int64_t head) const {
    const int64_t left = head - first(small);
    return static_cast<unsigned>(left <= 0 ? (head + small_rows - 1) / small_rows
                                           : small + (left + large_rows - 1) / large_rows);
  }
};

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

// Adds a code to those that the query keeps.
__device__ __forceinline__ void record(const Filter& filter, int64_t query, int distance,
                                       int64_t row) {
  atomicAdd(&filter.counts[query * filter.bins + distance], 1u);
  const unsigned place = atomicAdd(&filter.recorded[query], 1u);
  if (place < filter.capacity)
    filter.hits[query * filter.capacity + place] = make_key(distance, row);
  else
    atomicMin(&filter.limits[query], make_limit(0, 0));  // given up: no more of it is wanted
}

// What a block finds in a chunk, in shared memory: queries and rows, counted within their block and
// chunk. Recording takes long, and goes on for many at once.
struct Finds {
  static constexpr unsigned kRoom = 1024;
  static constexpr int kWords = kRoom + 1;
  unsigned* number;
  unsigned* entries;

  explicit __device__ Finds(unsigned* words) : number(words), entries(words + 1) {}
  // Adds one; whether there was room.
  __device__ __forceinline__ bool add(unsigned query, unsigned row) const {
    const unsigned place = atomicAdd(number, 1u);
    if (place < kRoom) entries[place] = query << 16 | row;
    return place < kRoom;
  }
};

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

// By a lane, for a query of its own: the least distance up to `last` within which k are counted, or
// last + 1. The counts may grow meanwhile; many are read at once, as each takes long.
__device__ __forceinline__ int lowest_limit(const volatile unsigned* counts, int last, unsigned k) {
  constexpr int kAtOnce = 16;
  unsigned sum = 0;
  for (int first = 0; first <= last; first += kAtOnce) {
    unsigned held[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) held[i] = first + i <= last ? counts[first + i] : 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      sum += min(held[i], k);  // sum < k before: nothing overflows
      if (sum >= k) return first + i;
    }
  }
  return last + 1;
}

// A block's part of the search: a chunk, and some queries, the first chunk of which is that of
// ticket first_ticket.
struct Turn {
  int64_t first_query;
  unsigned chunk;
  int queries;
  unsigned first_ticket;
};

// Records what is near to a query.
__device__ __forceinline__ void record_found(const PackedCodes& queries,
                                             const PackedCodes& database, const Filter& filter,
                                             const Turn& turn, int64_t first_row, int* touched,
                                             unsigned query, unsigned row) {
  int distance = 0;
  for (int w = 0; w < database.words(); ++w)
    distance +=
        __popc(queries.word(turn.first_query + query, w) ^ database.word(first_row + row, w));
  record(filter, turn.first_query + query, distance, first_row + row);
  touched[query] = 1;
}

// By a whole block, when all have searched the chunk: records what they found, and lowers the
// limits of the queries for which something was recorded to what their counts allow.
__device__ __forceinline__ void settle(const PackedCodes& queries, const PackedCodes& database,
                                       const Filter& filter, const Turn& turn, int64_t first_row,
                                       const Finds& finds, int* touched) {
  const unsigned number = *finds.number;
  if (number == 0) return;
  for (unsigned i = threadIdx.x; i < min(number, Finds::kRoom); i += blockDim.x)
    record_found(queries, database, filter, turn, first_row, touched, finds.entries[i] >> 16,
                 finds.entries[i] & 0xFFFF);
  __syncthreads();
  if (threadIdx.x == 0) *finds.number = 0;
  for (int at = threadIdx.x; at < turn.queries; at += blockDim.x) {
    if (!touched[at]) continue;
    touched[at] = 0;
    const int64_t query = turn.first_query + at;
    const int last = static_cast<int>(__ldcg(&filter.limits[query]) >> 32);
    const int lowest = lowest_limit(filter.counts + query * filter.bins, last, filter.k);
    if (lowest > last) continue;
    // Whatever was counted lies in chunks that were taken before: a ticket has come back from
    // memory, so it is taken for all, before its chunk is searched and what is found there counted.
    __threadfence();
    const unsigned chunk = atomicAdd(filter.taken, 0u) - turn.first_ticket;
    atomicMin(&filter.limits[query], make_limit(lowest, chunk));
  }
}

}  // namespace hashfast
