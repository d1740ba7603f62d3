// The scan by popcounts: for GPUs whose tensor cores do not multiply bits, and for long codes.
#pragma once

#include "hamming_filter.cuh"

namespace hashfast {

constexpr int kPopcThreads = 256;
constexpr int kPopcBlocks = 3;  // on a processor
constexpr int kPopcRows = 4;    // of a thread in a chunk
constexpr int kPopcChunk = kPopcThreads * kPopcRows;
constexpr int kPopcQueries = 32;  // of a block, the most

inline size_t popc_shared(int words) {
  return 4 * (size_t{kPopcQueries} * words + 2 * kPopcQueries + 1 + Finds::kWords);
}

// A block compares a chunk with kPopcQueries queries, kTogether at a time. Shared memory: words of
// the queries [words, kPopcQueries], their largest distances, which were touched, the ticket,
// finds.
template <int kTogether, bool kInWords>
__global__ void __launch_bounds__(kPopcThreads, kPopcBlocks)
    hamming_scan_popc_kernel(PackedCodes queries, PackedCodes database, const uint8_t* allowed,
                             Chunks chunks, unsigned tickets, Filter filter) {
  HASHFAST_DYNAMIC_SHARED(shared);
  const int words = database.words();
  uint32_t* const query_words = reinterpret_cast<uint32_t*>(shared);
  int* const largest = reinterpret_cast<int*>(query_words + kPopcQueries * words);
  int* const touched = largest + kPopcQueries;
  unsigned* const slot = reinterpret_cast<unsigned*>(touched + kPopcQueries);

  const Finds finds(slot + 1);

  if (threadIdx.x < kPopcQueries) touched[threadIdx.x] = 0;
  if (threadIdx.x == 0) *finds.number = 0;
  int64_t held = -1;  // first query in shared memory
  for (;;) {
    if (threadIdx.x == 0) *slot = atomicAdd(filter.taken, 1u);
    __syncthreads();
    const unsigned ticket = *slot, chunk = ticket % chunks.number;
    if (ticket >= tickets) return;
    const int64_t first_query = int64_t{ticket / chunks.number} * kPopcQueries;
    const int count = static_cast<int>(min(queries.rows - first_query, int64_t{kPopcQueries}));
    const int64_t first_row = chunks.first(chunk);
    const Turn turn{first_query, chunk, count, ticket - chunk};
    const int padded = (count + kTogether - 1) / kTogether * kTogether;
    if (first_query != held)
      for (int i = threadIdx.x; i < kPopcQueries * words; i += kPopcThreads) {
        const int query = i % kPopcQueries;
        query_words[i] = query < count ? queries.word(first_query + query, i / kPopcQueries) : 0;
      }
    held = first_query;
    if (threadIdx.x < kPopcQueries)
      largest[threadIdx.x] =
          static_cast<int>(threadIdx.x) < count
              ? largest_distance(__ldcg(&filter.limits[first_query + threadIdx.x]), chunk,
                                 database.bits())
              : -1;
    __syncthreads();

    int64_t rows[kPopcRows];
    bool counts[kPopcRows];
#pragma unroll
    for (int i = 0; i < kPopcRows; ++i) {
      const int at = i * kPopcThreads + threadIdx.x;
      rows[i] = first_row + at;
      counts[i] =
          at < chunks.size(chunk) && rows[i] < database.rows && is_allowed(allowed, rows[i]);
    }
    for (int from = 0; from < padded; from += kTogether) {
      int distances[kPopcRows][kTogether] = {};
#pragma unroll 1
      for (int w = 0; w < words; ++w) {
        uint32_t x[kTogether];
#pragma unroll
        for (int j = 0; j < kTogether; ++j) x[j] = query_words[w * kPopcQueries + from + j];
#pragma unroll
        for (int i = 0; i < kPopcRows; ++i) {
          const uint32_t y = counts[i] ? database.word<kInWords>(rows[i], w) : 0;
#pragma unroll
          for (int j = 0; j < kTogether; ++j) distances[i][j] += __popc(x[j] ^ y);
        }
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int most = largest[from + j];
#pragma unroll
        for (int i = 0; i < kPopcRows; ++i)
          if (counts[i] && distances[i][j] <= most) {
            const unsigned found = i * kPopcThreads + threadIdx.x;
            if (!finds.add(from + j, found))
              record_found(queries, database, filter, turn, first_row, touched, from + j, found);
          }
      }
    }
    __syncthreads();
    settle(queries, database, filter, turn, first_row, finds, touched);
  }
}

}  // namespace hashfast
