// Exact top-k by counting: a block a query counts distances, finds the cut, then places the hits in
// (distance, id) order. Simple and deterministic; two passes over the database for each query.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "../checks.h"
#include "../cuda_utils.cuh"

namespace hashfast {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kPaddingDistance = 2147483647;
using Counter = unsigned;  // 64-bit shared atomics are loops; there are fewer than 2^32 codes

__device__ int hamming(const uint8_t* query, const uint8_t* code, int bytes, bool words) {
  int distance = 0;
  if (words) {
    const auto* a = reinterpret_cast<const uint32_t*>(query);
    const auto* b = reinterpret_cast<const uint32_t*>(code);
    for (int i = 0; i < bytes / 4; ++i) distance += __popc(a[i] ^ b[i]);
  } else {
    for (int i = 0; i < bytes; ++i) distance += __popc(query[i] ^ code[i]);
  }
  return distance;
}

__device__ bool counts(const uint8_t* allowed, int64_t row) {
  return !allowed || (allowed[row / 8] >> (7 - row % 8) & 1);
}

// Shared memory: one counter a distance, then the query's bytes.
__global__ void __launch_bounds__(kThreads)
    topk_kernel(const uint8_t* __restrict__ queries, const uint8_t* __restrict__ database,
                const uint8_t* __restrict__ allowed, int64_t n, int bytes, bool words, int64_t k,
                int* __restrict__ distances, int64_t* __restrict__ ids) {
  extern __shared__ Counter counters[];
  __shared__ int cutoff;
  __shared__ int64_t found;
  const int bins = 8 * bytes + 1;
  auto* const query = reinterpret_cast<uint8_t*>(counters + bins);
  distances += blockIdx.x * k;
  ids += blockIdx.x * k;

  for (int i = threadIdx.x; i < bytes; i += kThreads)
    query[i] = queries[blockIdx.x * int64_t{bytes} + i];
  for (int i = threadIdx.x; i < bins; i += kThreads) counters[i] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    if (counts(allowed, i))
      atomicAdd(&counters[hamming(query, database + i * bytes, bytes, words)], Counter{1});
  __syncthreads();
  if (threadIdx.x == 0) {
    // Counts become the position of the first hit at each distance.
    Counter position = 0;
    cutoff = -1;
    for (int d = 0; d < bins; ++d) {
      const Counter count = counters[d];
      if (position < k) cutoff = d;
      counters[d] = position;
      position += count;
    }
    found = position < k ? position : k;
  }
  __syncthreads();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t base = 0; base < n; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    const int d = i < n ? hamming(query, database + i * bytes, bytes, words) : kPaddingDistance;
    const bool hit = d <= cutoff && counts(allowed, i);
    if (!__syncthreads_or(hit)) continue;
    for (int turn = 0; turn < kWarps; ++turn) {  // warps in id order
      const unsigned hits = __ballot_sync(~0u, hit);
      if (warp == turn && hit) {
        const unsigned peers = __match_any_sync(hits, d);
        const int rank = __popc(peers & ((1u << lane) - 1));
        const Counter position = counters[d] + rank;
        __syncwarp(hits);
        if (rank == 0) counters[d] += __popc(peers);
        if (position < static_cast<Counter>(found)) {
          distances[position] = d;
          ids[position] = i;
        }
      }
      __syncthreads();
    }
  }
  for (int64_t i = found + threadIdx.x; i < k; i += kThreads) {
    distances[i] = kPaddingDistance;
    ids[i] = -1;
  }
}

void launch(const uint8_t* query, int64_t queries, const uint8_t* database, const uint8_t* allowed,
            int64_t n, int bytes, int64_t k, int* distances, int64_t* ids, cudaStream_t stream) {
  const bool words = bytes % 4 == 0 && reinterpret_cast<uintptr_t>(database) % 4 == 0;
  const size_t shared = (8 * size_t(bytes) + 1) * sizeof(Counter) + bytes;
  if (shared > 32 * 1024) {  // beyond what every device gives without asking
    int device = 0, most = 0;
    STD_CUDA_CHECK(cudaGetDevice(&device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    cudaFuncAttributes used;
    STD_CUDA_CHECK(cudaFuncGetAttributes(&used, topk_kernel));
    STD_TORCH_CHECK(shared + used.sharedSizeBytes <= size_t(most), "hamming_topk: codes of ", bytes,
                    " bytes need more shared memory than this GPU has (", most,
                    " bytes); search them on the CPU");
    STD_CUDA_CHECK(cudaFuncSetAttribute(topk_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shared)));
  }
  topk_kernel<<<static_cast<unsigned>(queries), kThreads, shared, stream>>>(
      query, database, allowed, n, bytes, words, k, distances, ids);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> hamming_topk(const Tensor& query, const Tensor& database, int64_t k,
                                        const std::optional<Tensor>& allowed) {
  check_codes("hamming_topk", query, database);
  STD_TORCH_CHECK(k >= 1, "hamming_topk: k is ", k, "; it must be at least 1");
  STD_TORCH_CHECK(query.is_cuda(), "hamming_topk: query must be on the GPU of the database");
  STD_TORCH_CHECK(database.size(0) <= int64_t{0xFFFFFFFF},
                  "hamming_topk: more than 2^32 - 1 codes; search them in parts");
  const Allowed bitmap("hamming_topk", allowed, database);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const int64_t queries = query_rows.size(0);
  Tensor distances = torch::stable::new_empty(query_rows, {queries, k}, ScalarType::Int);
  Tensor ids = torch::stable::new_empty(query_rows, {queries, k}, ScalarType::Long);
  if (queries > 0)
    launch(query_rows.const_data_ptr<uint8_t>(), queries, database_rows.const_data_ptr<uint8_t>(),
           bitmap.bits(), database_rows.size(0), static_cast<int>(query_rows.size(1)), k,
           distances.mutable_data_ptr<int32_t>(), ids.mutable_data_ptr<int64_t>(),
           current_stream(query_rows));
  return {distances, ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CUDA, m) { m.impl("hamming_topk", TORCH_BOX(&hamming_topk)); }

}  // namespace hashfast
