#include <torch/csrc/stable/library.h>

#include <optional>

#include "hamming_histogram.cuh"
#include "hamming_tensors.h"
#include "launch.cuh"

namespace hashfast {
namespace {

constexpr const char* kOp = "hamming_histogram";

Tensor hamming_histogram(const Tensor& query, const Tensor& database,
                         const std::optional<Tensor>& query_labels,
                         const std::optional<Tensor>& database_labels) {
  check_codes(kOp, query, database);
  STD_TORCH_CHECK(query_labels.has_value() == database_labels.has_value(), kOp,
                  ": labels are of both query and database, or of neither");
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Tensor queries = torch::stable::contiguous(query);
  const Tensor codes = torch::stable::contiguous(database);
  std::optional<LabelTensors> labels;
  if (query_labels) labels.emplace(kOp, query, database, *query_labels, *database_labels);
  Tensor out =
      torch::stable::new_empty(queries, {query.size(0), 8 * query.size(1) + 1}, ScalarType::Long);
  histogram_of(Launch(queries),
               {queries.const_data_ptr<uint8_t>(), codes.const_data_ptr<uint8_t>(), query.size(0),
                database.size(0), static_cast<int>(query.size(1)),
                labels ? &labels->pointers() : nullptr, out.mutable_data_ptr<int64_t>()});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CUDA, m) {
  m.impl("hamming_histogram", TORCH_BOX(&hamming_histogram));
}

}  // namespace hashfast
