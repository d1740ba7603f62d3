#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "hamming_hits.cuh"
#include "hamming_tensors.h"
#include "launch.cuh"

namespace hashfast {
namespace {

constexpr const char* kOp = "hamming_hits";

std::tuple<Tensor, Tensor> hamming_hits(const Tensor& query, const Tensor& database, int64_t k,
                                        const Tensor& query_labels, const Tensor& database_labels,
                                        const std::optional<Tensor>& left_out) {
  check_codes(kOp, query, database);
  STD_TORCH_CHECK(k >= 1, kOp, ": k is ", k, "; it must be at least 1");
  STD_TORCH_CHECK(database.size(0) < int64_t{1} << 31, kOp, ": ", database.size(0),
                  " codes; expected fewer than 2^31");
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Tensor queries = torch::stable::contiguous(query);
  const Tensor codes = torch::stable::contiguous(database);
  const LabelTensors labels(kOp, query, database, query_labels, database_labels);
  std::optional<Tensor> without;
  if (left_out) {
    STD_TORCH_CHECK(left_out->scalar_type() == ScalarType::Long && left_out->dim() == 1 &&
                        left_out->size(0) == query.size(0),
                    kOp, ": left_out must be int64 [", query.size(0), "]");
    check_device(kOp, "left_out", *left_out, database);
    without = torch::stable::contiguous(*left_out);
  }
  const Launch launch(queries);
  HitFind find({queries.const_data_ptr<uint8_t>(), codes.const_data_ptr<uint8_t>(), query.size(0),
                database.size(0), static_cast<int>(query.size(1)), k, labels.pointers(),
                without ? without->const_data_ptr<int64_t>() : nullptr},
               launch.processors());
  const Tensor workspace = workspace_like(queries, find.workspace_bytes());
  Tensor limits = torch::stable::new_empty(queries, {query.size(0) + 1}, ScalarType::Long);
  find.count(launch, workspace.mutable_data_ptr<uint8_t>(), limits.mutable_data_ptr<int64_t>());

  const Tensor last = on_cpu(torch::stable::narrow(limits, 0, query.size(0), 1));
  Tensor ranks =
      torch::stable::new_empty(queries, {last.const_data_ptr<int64_t>()[0]}, ScalarType::Int);
  find.place(launch, ranks.mutable_data_ptr<int32_t>());
  return {limits, ranks};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CUDA, m) { m.impl("hamming_hits", TORCH_BOX(&hamming_hits)); }

}  // namespace hashfast
