// The k nearest of what a scan has recorded, in order.
#pragma once

#include "hamming_filter.cuh"

namespace hashfast {

constexpr int kSelectThreads = 512;
constexpr int kSortedInShared = 4096;  // keys

// By a whole block: sorts keys in place, ascending; their number is a power of two.
__device__ __forceinline__ void bitonic_sort(Key* keys, int number) {
  for (int size = 2; size <= number; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < number / 2; i += kSelectThreads) {
        const int low = i / step * 2 * step + i % step, high = low + step;
        const Key a = keys[low], b = keys[high];
        if ((a > b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  __syncthreads();
}

// By a whole block: the row of the `wanted`-th of the hits at a distance, counted from 1 by row.
// digits: 256 counters in shared memory.
__device__ __forceinline__ int64_t find_row(const Key* hits, int number, int distance, int wanted,
                                            int64_t rows, unsigned* digits) {
  __shared__ int64_t prefix;
  __shared__ int left;
  int shift = 0;
  while ((rows - 1) >> shift >> 8) shift += 8;
  if (threadIdx.x == 0) {
    prefix = 0;
    left = wanted;
  }
  for (; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += kSelectThreads) digits[i] = 0;
    __syncthreads();
    const int64_t above = prefix;
    for (int i = threadIdx.x; i < number; i += kSelectThreads) {
      const int64_t row = key_row(hits[i]);
      if (key_distance(hits[i]) == distance && row >> shift >> 8 == above)
        atomicAdd(&digits[row >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      const Cut cut = find_cut(digits, 256, 255, left);
      __syncwarp();
      if (threadIdx.x == 0) {
        prefix = above << 8 | cut.distance;
        left -= cut.below;
      }
    }
    __syncthreads();
  }
  return prefix;
}

// A block a query. available: how many codes may be found at all, as a number and, where a bitmap
// says, in memory. sorted: room for `size` keys, a power of two >= k, in shared memory where
// kShared and else [queries, size]. Sets again[query] where the scan has not kept all that it
// takes.
template <bool kShared>
__global__ void __launch_bounds__(kSelectThreads)
    hamming_select_kernel(Filter filter, int64_t rows, const unsigned long long* allowed_rows,
                          int size, Key* sorted, int* again, int* distances, int64_t* ids) {
  HASHFAST_DYNAMIC_SHARED(shared);
  __shared__ unsigned digits[256];
  __shared__ Cut cut;
  __shared__ int chosen;
  const int64_t query = blockIdx.x;
  const int k = filter.k;
  const unsigned recorded = filter.recorded[query];
  const unsigned* const counts = filter.counts + query * filter.bins;
  if (threadIdx.x < 32) {
    const Cut found = find_cut(counts, filter.bins, filter.bins - 1, filter.k);
    if (threadIdx.x == 0) {
      cut = found;
      chosen = 0;
    }
  }
  __syncthreads();
  const auto available = static_cast<unsigned long long>(allowed_rows ? *allowed_rows : rows);
  const int wanted = static_cast<int>(min(available, static_cast<unsigned long long>(k)));
  // More than there was room for; or codes with every bit different are among the nearest.
  const bool incomplete = recorded > filter.capacity || static_cast<int64_t>(recorded) < wanted;
  if (threadIdx.x == 0) again[query] = incomplete;
  if (incomplete) return;

  const Key* const hits = filter.hits + query * filter.capacity;
  Key last = kNoKey - 1;  // the largest that is taken: all, if fewer than k were found
  if (cut.distance < filter.bins) {
    const int ties = wanted - static_cast<int>(cut.below);
    last = make_key(cut.distance + 1, 0) - 1;
    if (static_cast<int>(counts[cut.distance]) > ties)
      last = make_key(cut.distance, find_row(hits, recorded, cut.distance, ties, rows, digits));
  }
  Key* const keys = kShared ? reinterpret_cast<Key*>(shared) : sorted + query * size;
  for (int i = threadIdx.x; i < static_cast<int>(recorded); i += kSelectThreads)
    if (hits[i] <= last) keys[atomicAdd(&chosen, 1)] = hits[i];
  for (int i = wanted + threadIdx.x; i < size; i += kSelectThreads) keys[i] = kNoKey;
  bitonic_sort(keys, size);
  for (int i = threadIdx.x; i < k; i += kSelectThreads) {
    const bool found = i < wanted;
    distances[query * k + i] = found ? key_distance(keys[i]) : kPaddingDistance;
    ids[query * k + i] = found ? key_row(keys[i]) : -1;
  }
}

}  // namespace hashfast
