#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../checks.h"
#include "hamming.h"

namespace hashfast {
namespace {

Tensor hamming_range_count(const Tensor& query, const Tensor& database, int64_t radius,
                           const std::optional<Tensor>& allowed) {
  check_codes("hamming_range_count", query, database);
  const Allowed bitmap("hamming_range_count", allowed, database);
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const Codes queries(query_rows), codes(database_rows);
  Tensor counts = torch::stable::new_empty(query_rows, {queries.rows}, ScalarType::Long);
  count_within(queries, codes, bitmap.bits(), radius, counts.mutable_data_ptr<int64_t>());
  return counts;
}

std::tuple<Tensor, Tensor> hamming_range(const Tensor& query, const Tensor& database,
                                         int64_t radius, const Tensor& limits,
                                         const std::optional<Tensor>& allowed) {
  check_codes("hamming_range", query, database);
  const Allowed bitmap("hamming_range", allowed, database);
  STD_TORCH_CHECK(limits.scalar_type() == ScalarType::Long && limits.dim() == 1 &&
                      limits.size(0) == query.size(0) + 1,
                  "hamming_range: limits must be int64 [", query.size(0) + 1, "]");
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const Tensor limit_rows = torch::stable::contiguous(limits);
  const Codes queries(query_rows), codes(database_rows);
  const int64_t* const limit = limit_rows.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(limit[0] == 0 && std::is_sorted(limit, limit + queries.rows + 1),
                  "hamming_range: limits must start at 0 and not decrease");
  const int64_t total = limit[queries.rows];
  Tensor distances = torch::stable::new_empty(query_rows, {total}, ScalarType::Int);
  Tensor ids = torch::stable::new_empty(query_rows, {total}, ScalarType::Long);
  const bool right =
      find_within(queries, codes, bitmap.bits(), radius, limit,
                  distances.mutable_data_ptr<int32_t>(), ids.mutable_data_ptr<int64_t>());
  STD_TORCH_CHECK(right, "hamming_range: limits are not those of these codes and this radius");
  return {distances, ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) {
  m.impl("hamming_range_count", TORCH_BOX(&hamming_range_count));
  m.impl("hamming_range", TORCH_BOX(&hamming_range));
}

}  // namespace hashfast
