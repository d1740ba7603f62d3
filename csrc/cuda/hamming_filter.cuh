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
  // Whether there is room.
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

// A block's part of the search, on which all its threads work: queries from first_query on, and
// chunks from ticket first_ticket on.
struct Turn {
  int64_t first_query, first_row;
  int queries;
  unsigned first_ticket;
};

// Records what is near to a query.
__device__ __forceinline__ void record_found(const PackedCodes& queries,
                                             const PackedCodes& database, const Filter& filter,
                                             const Turn& turn, int* touched, unsigned query,
                                             unsigned row) {
  int distance = 0;
  for (int w = 0; w < database.words(); ++w)
    distance +=
        __popc(queries.word(turn.first_query + query, w) ^ database.word(turn.first_row + row, w));
  record(filter, turn.first_query + query, distance, turn.first_row + row);
  touched[query] = 1;
}

// By a whole block, when all have searched the chunk: records what they found, and lowers the
// limits of the queries for which something was recorded; a warp a query.
__device__ __forceinline__ void settle(const PackedCodes& queries, const PackedCodes& database,
                                       const Filter& filter, const Turn& turn, const Finds& finds,
                                       int* touched) {
  const unsigned number = *finds.number;
  if (number == 0) return;
  for (unsigned i = threadIdx.x; i < min(number, Finds::kRoom); i += blockDim.x)
    record_found(queries, database, filter, turn, touched, finds.entries[i] >> 16,
                 finds.entries[i] & 0xFFFF);
  __syncthreads();
  if (threadIdx.x == 0) *finds.number = 0;
  const int lane = threadIdx.x % 32;
  for (int base = threadIdx.x - lane; base < turn.queries; base += blockDim.x) {
    const bool mine = base + lane < turn.queries && touched[base + lane];
    unsigned left = __ballot_sync(kFullWarp, mine);
    if (mine) touched[base + lane] = 0;
    for (; left; left &= left - 1)
      tighten(filter, turn.first_query + base + __ffs(left) - 1, turn.first_ticket);
  }
}

}  // namespace hashfast
