// First limits of a search: the k-th nearest code of a sample is no nearer than that of all.
#pragma once

#include "hamming_filter.cuh"

namespace hashfast {

constexpr int kSampleThreads = 1024;
constexpr int kSampleRun = 32;  // neighbouring rows taken together: whole cache lines

constexpr int kSampleAtOnce = 6;  // loads of so many rows are under way together

// Rows in runs: those of the first chunks without a gap, then runs that lie `stride` >= kSampleRun
// apart, so that no row is taken twice.
struct SampleRows {
  int64_t head_runs, runs, stride;
  unsigned head_chunks;

  __device__ __forceinline__ int64_t first(int64_t run) const {
    const int64_t behind = run - head_runs;
    return kSampleRun * min(run, head_runs) + (behind > 0 ? behind * stride : 0);
  }
};

// A block a query. Where the first chunks alone have k codes within the limit, codes at the very
// limit come too late in all others: without this, many equal codes would all be recorded. Shared
// memory: `copies` histograms of the head and of the rest, so that warps do not wait for each
// other, and the query.
template <bool kInWords>
__global__ void __launch_bounds__(kSampleThreads, 1)
    hamming_sample_kernel(PackedCodes queries, PackedCodes database, const uint8_t* allowed,
                          SampleRows sample, int copies, Filter filter) {
  HASHFAST_DYNAMIC_SHARED(shared);
  const int bins = filter.bins;
  unsigned* const head = reinterpret_cast<unsigned*>(shared);
  unsigned* const rest = head + copies * bins;
  uint32_t* const query = reinterpret_cast<uint32_t*>(rest + copies * bins);
  const int words = queries.words();
  for (int i = threadIdx.x; i < 2 * copies * bins; i += kSampleThreads) head[i] = 0;
  for (int i = threadIdx.x; i < words; i += kSampleThreads) query[i] = queries.word(blockIdx.x, i);
  __syncthreads();

  constexpr int kWarps = kSampleThreads / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int own = warp % copies * bins;
  for (int64_t first = warp; first < sample.runs; first += kWarps * kSampleAtOnce) {
    unsigned rows[kSampleAtOnce];  // there are fewer than 2^32
    int distances[kSampleAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kSampleAtOnce; ++i)
      rows[i] = static_cast<unsigned>(sample.first(first + i * kWarps)) + lane;
#pragma unroll 1
    for (int w = 0; w < words; ++w) {
#pragma unroll
      for (int i = 0; i < kSampleAtOnce; ++i) {
        const unsigned row = rows[i] < database.rows ? rows[i] : 0;
        distances[i] += __popc(query[w] ^ database.word<kInWords>(row, w));
      }
    }
#pragma unroll
    for (int i = 0; i < kSampleAtOnce; ++i) {
      const int64_t run = first + i * kWarps;
      if (run < sample.runs && rows[i] < database.rows && is_allowed(allowed, rows[i]))
        atomicAdd((run < sample.head_runs ? head : rest) + own + distances[i], 1u);
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < bins; i += kSampleThreads) {
    for (int copy = 1; copy < copies; ++copy) {
      head[i] += head[copy * bins + i];
      rest[i] += rest[copy * bins + i];
    }
    rest[i] += head[i];
  }
  __syncthreads();
  if (warp != 0) return;
  const int distance = min(find_cut(rest, bins, bins - 1, filter.k).distance, bins - 1);
  const bool early = find_cut(head, bins, distance, filter.k).distance <= distance;
  if (lane == 0)
    filter.limits[blockIdx.x] = make_limit(distance, early ? sample.head_chunks : kEveryChunk);
}

// How many rows a bitmap lets through, added to *total.
__global__ void __launch_bounds__(kSampleThreads)
    hamming_allowed_kernel(const uint8_t* allowed, int64_t rows, unsigned long long* total) {
  unsigned count = 0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < (rows + 7) / 8;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int held = static_cast<int>(min(rows - 8 * i, int64_t{8}));
    count += __popc(allowed[i] >> (8 - held));
  }
  count = warp_sum(count);
  if (threadIdx.x % 32 == 0) atomicAdd(total, static_cast<unsigned long long>(count));
}

}  // namespace hashfast
