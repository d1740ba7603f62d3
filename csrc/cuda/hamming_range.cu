#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "hamming_range.cuh"
#include "hamming_tensors.h"
#include "launch.cuh"

namespace hashfast {
namespace {

RangeSearch search_of(const Tensor& queries, const Tensor& codes, const Allowed& bitmap,
                      int64_t radius) {
  return {queries.const_data_ptr<uint8_t>(),
          codes.const_data_ptr<uint8_t>(),
          bitmap.bits(),
          queries.size(0),
          codes.size(0),
          static_cast<int>(queries.size(1)),
          radius};
}

Tensor hamming_range_count(const Tensor& query, const Tensor& database, int64_t radius,
                           const std::optional<Tensor>& allowed) {
  constexpr const char* kOp = "hamming_range_count";
  check_codes(kOp, query, database);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Allowed bitmap(kOp, allowed, database);
  const Tensor queries = torch::stable::contiguous(query);
  const Tensor codes = torch::stable::contiguous(database);
  Tensor counts = torch::stable::new_empty(queries, {query.size(0)}, ScalarType::Long);
  range_count(Launch(queries), search_of(queries, codes, bitmap, radius),
              counts.mutable_data_ptr<int64_t>());
  return counts;
}

std::tuple<Tensor, Tensor> hamming_range(const Tensor& query, const Tensor& database,
                                         int64_t radius, const Tensor& limits,
                                         const std::optional<Tensor>& allowed) {
  constexpr const char* kOp = "hamming_range";
  check_codes(kOp, query, database);
  check_rows(kOp, database);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Allowed bitmap(kOp, allowed, database);
  STD_TORCH_CHECK(limits.scalar_type() == ScalarType::Long && limits.dim() == 1 &&
                      limits.size(0) == query.size(0) + 1,
                  kOp, ": limits must be int64 [", query.size(0) + 1, "]");
  check_device(kOp, "limits", limits, database);
  const Tensor queries = torch::stable::contiguous(query);
  const Tensor codes = torch::stable::contiguous(database);
  const Tensor limit_rows = torch::stable::contiguous(limits);
  const Launch launch(queries);
  RangeFind find(search_of(queries, codes, bitmap, radius), launch.processors());
  const Tensor workspace = workspace_like(queries, find.workspace_bytes());
  const Tensor status = torch::stable::new_empty(queries, {2}, ScalarType::Long);
  find.count(launch, limit_rows.const_data_ptr<int64_t>(), workspace.mutable_data_ptr<uint8_t>(),
             status.mutable_data_ptr<int64_t>());

  const Tensor told = on_cpu(status);
  const int64_t* const numbers = told.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(numbers[1] != 2, kOp, ": limits must start at 0 and not decrease");
  STD_TORCH_CHECK(numbers[1] == 0, kOp, ": limits are not those of these codes and this radius");
  Tensor distances = torch::stable::new_empty(queries, {numbers[0]}, ScalarType::Int);
  Tensor ids = torch::stable::new_empty(queries, {numbers[0]}, ScalarType::Long);
  find.place(launch, distances.mutable_data_ptr<int32_t>(), ids.mutable_data_ptr<int64_t>());
  return {distances, ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CUDA, m) {
  m.impl("hamming_range_count", TORCH_BOX(&hamming_range_count));
  m.impl("hamming_range", TORCH_BOX(&hamming_range));
}

}  // namespace hashfast
