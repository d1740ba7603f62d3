// Which items share a class: equal ids, or a common bit of packed multi-hot rows.
#pragma once

#include "device.cuh"

namespace hashfast {

struct LabelPointers {
  bool multi_hot;
  const int64_t *query_ids, *database_ids;    // one each, if not multi_hot
  const uint8_t *query_bits, *database_bits;  // [q, width] and [n, width], if multi_hot
  int64_t width;
};

// The classes of Queries queries from `first` on; the last one stands in for those beyond it. Where
// nothing is Labelled everything shares a class and nothing is read.
template <bool Labelled, int Queries>
class QueryLabels {
 public:
  __device__ QueryLabels(const LabelPointers& labels, int64_t first, int64_t q) : labels_(labels) {
    if constexpr (Labelled) {
#pragma unroll
      for (int j = 0; j < Queries; ++j) {
        const int64_t query = min(first + j, q - 1);
        ids_[j] = labels.multi_hot ? query * labels.width : labels.query_ids[query];
      }
    }
  }

  // Which of them share a class with a row.
  __device__ __forceinline__ void share(int64_t row, bool (&out)[Queries]) const {
    if constexpr (!Labelled) {
#pragma unroll
      for (int j = 0; j < Queries; ++j) out[j] = true;
    } else if (!labels_.multi_hot) {
      const int64_t id = labels_.database_ids[row];
#pragma unroll
      for (int j = 0; j < Queries; ++j) out[j] = ids_[j] == id;
    } else {
      unsigned common[Queries] = {};
      const uint8_t* const bits = labels_.database_bits + row * labels_.width;
      for (int64_t i = 0; i < labels_.width; ++i) {
        const unsigned byte = bits[i];
#pragma unroll
        for (int j = 0; j < Queries; ++j) common[j] |= byte & labels_.query_bits[ids_[j] + i];
      }
#pragma unroll
      for (int j = 0; j < Queries; ++j) out[j] = common[j] != 0;
    }
  }

 private:
  const LabelPointers& labels_;
  int64_t ids_[Queries];  // if multi_hot, where its bits begin
};

}  // namespace hashfast
