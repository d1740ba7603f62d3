// Argument checks shared by the kernels; messages name what came and what was expected.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

namespace hashfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Distances are held in 16 bits.
constexpr int64_t kMaxCodeBytes = 8191;

inline void check_codes(const char* op, const Tensor& query, const Tensor& database) {
  STD_TORCH_CHECK(query.dim() == 2 && database.dim() == 2, op, ": codes have ", query.dim(),
                  " and ", database.dim(), " dimensions; expected uint8 [n, bytes]");
  STD_TORCH_CHECK(
      query.scalar_type() == ScalarType::Byte && database.scalar_type() == ScalarType::Byte, op,
      ": packed codes must be uint8");
  STD_TORCH_CHECK(query.device() == database.device(), op,
                  ": query and database are on different devices");
  STD_TORCH_CHECK(query.size(1) == database.size(1), op, ": query has ", query.size(1),
                  " bytes per code and database ", database.size(1));
  STD_TORCH_CHECK(query.size(1) >= 1 && query.size(1) <= kMaxCodeBytes, op, ": codes have ",
                  query.size(1), " bytes; expected 1 to ", kMaxCodeBytes);
}

// Classes that hold a Tensor, whose own symbols are not exported either.
#define HASHFAST_LOCAL __attribute__((visibility("hidden")))

// Which rows of a database a search may find: the bits of `allowed`, all if there is none.
class HASHFAST_LOCAL Allowed {
 public:
  Allowed(const char* op, const std::optional<Tensor>& allowed, const Tensor& database) {
    if (!allowed) return;
    STD_TORCH_CHECK(allowed->scalar_type() == ScalarType::Byte && allowed->dim() == 1 &&
                        allowed->size(0) == (database.size(0) + 7) / 8,
                    op, ": allowed must be uint8 [", (database.size(0) + 7) / 8, "]");
    STD_TORCH_CHECK(allowed->device() == database.device(), op,
                    ": allowed and database are on different devices");
    held_ = torch::stable::contiguous(*allowed);
  }
  const uint8_t* bits() const { return held_ ? held_->const_data_ptr<uint8_t>() : nullptr; }

 private:
  std::optional<Tensor> held_;
};

}  // namespace hashfast
