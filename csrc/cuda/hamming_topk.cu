// The k nearest codes of every query, for tensors.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "hamming_search.cuh"
#include "hamming_tensors.h"
#include "launch.cuh"

namespace hashfast {
namespace {

std::tuple<Tensor, Tensor> hamming_topk(const Tensor& query, const Tensor& database, int64_t k,
                                        const std::optional<Tensor>& allowed) {
  check_codes("hamming_topk", query, database);
  STD_TORCH_CHECK(k >= 1, "hamming_topk: k is ", k, "; it must be at least 1");
  check_rows("hamming_topk", database);
  const Allowed bitmap("hamming_topk", allowed, database);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const int64_t q = query_rows.size(0), n = database_rows.size(0);
  const int bytes = static_cast<int>(query_rows.size(1));
  Tensor distances = torch::stable::new_empty(query_rows, {q, k}, ScalarType::Int);
  Tensor ids = torch::stable::new_empty(query_rows, {q, k}, ScalarType::Long);
  if (q == 0) return {distances, ids};

  const Launch launch(query_rows);
  const TopKPlan plan(q, n, bytes, k, launch.multiplies_bits(), launch.processors());
  Tensor workspace =
      workspace_like(query_rows, top_k_bytes(plan, n, bytes, k, launch.processors()));
  top_k(launch,
        TopK{query_rows.const_data_ptr<uint8_t>(), database_rows.const_data_ptr<uint8_t>(),
             bitmap.bits(), q, n, bytes, k, distances.mutable_data_ptr<int32_t>(),
             ids.mutable_data_ptr<int64_t>()},
        plan, workspace.mutable_data_ptr());
  return {distances, ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CUDA, m) { m.impl("hamming_topk", TORCH_BOX(&hamming_topk)); }

}  // namespace hashfast
