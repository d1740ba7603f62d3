#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../checks.h"
#include "hamming.h"

namespace hashfast {
namespace {

constexpr int32_t kPaddingDistance = 2147483647;

std::tuple<Tensor, Tensor> hamming_topk(const Tensor& query, const Tensor& database, int64_t k,
                                        const std::optional<Tensor>& allowed) {
  check_codes("hamming_topk", query, database);
  STD_TORCH_CHECK(k >= 1, "hamming_topk: k is ", k, "; it must be at least 1");
  const Allowed bitmap("hamming_topk", allowed, database);
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const Codes queries(query_rows), codes(database_rows);
  Tensor distances = torch::stable::new_empty(query_rows, {queries.rows, k}, ScalarType::Int);
  Tensor ids = torch::stable::new_empty(query_rows, {queries.rows, k}, ScalarType::Long);
  int32_t* const distance_out = distances.mutable_data_ptr<int32_t>();
  int64_t* const id_out = ids.mutable_data_ptr<int64_t>();
  const int64_t found = std::min(k, rows_allowed(bitmap.bits(), codes.rows));
  nearest(queries, codes, bitmap.bits(), k, [&](int64_t q, const Write& write) {
    write(distance_out + q * k, id_out + q * k);
    std::fill(distance_out + q * k + found, distance_out + (q + 1) * k, kPaddingDistance);
    std::fill(id_out + q * k + found, id_out + (q + 1) * k, int64_t{-1});
  });
  return {distances, ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) { m.impl("hamming_topk", TORCH_BOX(&hamming_topk)); }

}  // namespace hashfast
