#include <torch/csrc/stable/library.h>

#include <optional>

#include "../checks.h"
#include "hamming.h"

namespace hashfast {
namespace {

// Whether two items share a class: equal ids, or a common bit of packed multi-hot rows.
class Labels {
 public:
  Labels(const std::optional<Tensor>& labels, int64_t rows) {
    if (!labels) return;
    held_ = torch::stable::contiguous(*labels);
    STD_TORCH_CHECK(held_->size(0) == rows, "hamming_histogram: ", held_->size(0), " labels for ",
                    rows, " codes");
    if (held_->dim() == 1) {
      STD_TORCH_CHECK(held_->scalar_type() == ScalarType::Long,
                      "hamming_histogram: class ids must be int64");
      kind = Kind::ids;
      ids = held_->const_data_ptr<int64_t>();
    } else {
      STD_TORCH_CHECK(held_->dim() == 2 && held_->scalar_type() == ScalarType::Byte,
                      "hamming_histogram: packed multi-hot labels must be uint8 [n, bytes]");
      kind = Kind::bits;
      bits = held_->const_data_ptr<uint8_t>();
      width = held_->size(1);
    }
  }
  enum class Kind { none, ids, bits } kind = Kind::none;
  const int64_t* ids = nullptr;
  const uint8_t* bits = nullptr;
  int64_t width = 0;

 private:
  std::optional<Tensor> held_;
};

Tensor hamming_histogram(const Tensor& query, const Tensor& database,
                         const std::optional<Tensor>& query_labels,
                         const std::optional<Tensor>& database_labels) {
  check_codes("hamming_histogram", query, database);
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const Codes queries(query_rows), codes(database_rows);
  const Labels ours(query_labels, queries.rows), theirs(database_labels, codes.rows);
  STD_TORCH_CHECK(ours.kind == theirs.kind && ours.width == theirs.width,
                  "hamming_histogram: labels of query and database are of different kinds");
  const int64_t bins = queries.bins();
  Tensor out = torch::stable::new_zeros(query_rows, {queries.rows, bins}, ScalarType::Long);
  int64_t* const counts_out = out.mutable_data_ptr<int64_t>();

  for (int64_t first = 0; first < queries.rows; first += kGroup) {
    const int64_t group = std::min(kGroup, queries.rows - first);
    const Plan plan(group, codes.rows);
    std::vector<int64_t> partial(group * plan.chunks() * bins, 0);
    plan.scan(
        queries, first, codes,
        [&](int64_t q, int64_t chunk, int64_t start, int64_t count, const uint16_t* distances) {
          int64_t* counts = partial.data() + (q * plan.chunks() + chunk) * bins;
          if (ours.kind == Labels::Kind::ids) {
            const int64_t id = ours.ids[first + q];
            const int64_t* other = theirs.ids + start;
            for (int64_t i = 0; i < count; ++i) counts[distances[i]] += other[i] == id;
          } else if (ours.kind == Labels::Kind::bits) {
            const int64_t width = ours.width;
            const uint8_t* own = ours.bits + (first + q) * width;
            const uint8_t* other = theirs.bits + start * width;
            for (int64_t i = 0; i < count; ++i, other += width) {
              uint8_t common = 0;
              for (int64_t w = 0; w < width; ++w) common |= own[w] & other[w];
              counts[distances[i]] += common != 0;
            }
          } else {
            for (int64_t i = 0; i < count; ++i) ++counts[distances[i]];
          }
        });
    for (int64_t q = 0; q < group; ++q)
      for (int64_t chunk = 0; chunk < plan.chunks(); ++chunk)
        for (int64_t d = 0; d < bins; ++d)
          counts_out[(first + q) * bins + d] += partial[(q * plan.chunks() + chunk) * bins + d];
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) {
  m.impl("hamming_histogram", TORCH_BOX(&hamming_histogram));
}

}  // namespace hashfast
