#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../checks.h"
#include "hamming.h"

namespace hashfast {
namespace {

std::tuple<Tensor, Tensor> hamming_range(const Tensor& query, const Tensor& database,
                                         int64_t radius, const Tensor& limits) {
  check_codes("hamming_range", query, database);
  STD_TORCH_CHECK(limits.scalar_type() == ScalarType::Long && limits.dim() == 1 &&
                      limits.size(0) == query.size(0) + 1,
                  "hamming_range: limits must be int64 [", query.size(0) + 1, "]");
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const Tensor limit_rows = torch::stable::contiguous(limits);
  const Codes queries(query_rows), codes(database_rows);
  const int64_t* const limit = limit_rows.const_data_ptr<int64_t>();
  const int64_t total = limit[queries.rows];
  STD_TORCH_CHECK(limit[0] == 0 && std::is_sorted(limit, limit + queries.rows + 1),
                  "hamming_range: limits must start at 0 and not decrease");
  Tensor distances = torch::stable::new_empty(query_rows, {total}, ScalarType::Int);
  Tensor ids = torch::stable::new_empty(query_rows, {total}, ScalarType::Long);
  int32_t* const distance_out = distances.mutable_data_ptr<int32_t>();
  int64_t* const id_out = ids.mutable_data_ptr<int64_t>();

  rank(
      queries, codes,
      [&](int64_t q, const std::vector<int64_t>& counts) {
        const int64_t last = std::min<int64_t>(radius, counts.size() - 1);
        int64_t hits = 0;
        for (int64_t d = 0; d <= last; ++d) hits += counts[d];
        STD_TORCH_CHECK(hits == limit[q + 1] - limit[q], "hamming_range: query ", q, " has ", hits,
                        " hits and limits say ", limit[q + 1] - limit[q]);
        return last;
      },
      [=](int64_t q) {
        return Sink{distance_out + limit[q], id_out + limit[q], limit[q + 1] - limit[q]};
      });
  return {distances, ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) { m.impl("hamming_range", TORCH_BOX(&hamming_range)); }

}  // namespace hashfast
