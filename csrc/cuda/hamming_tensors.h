// What the Hamming operations ask of tensors on a GPU; hidden from their kernels, which know none.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "../checks.h"
#include "hamming_labels.cuh"

namespace hashfast {

inline void check_device(const char* op, const char* name, const Tensor& tensor,
                         const Tensor& database) {
  STD_TORCH_CHECK(tensor.device() == database.device(), op, ": ", name,
                  " and database are on different devices: move one of them");
}

// Ranks and positions of rows are held in 32 bits.
inline void check_rows(const char* op, const Tensor& database) {
  STD_TORCH_CHECK(database.size(0) <= int64_t{0xFFFFFFFF}, op, ": ", database.size(0),
                  " codes; expected fewer than 2^32: search them in parts");
}

// Labels of queries and of a database, either one's in contiguous memory.
class HASHFAST_LOCAL LabelTensors {
 public:
  LabelTensors(const char* op, const Tensor& query, const Tensor& database,
               const Tensor& query_labels, const Tensor& database_labels)
      : ours_(torch::stable::contiguous(query_labels)),
        theirs_(torch::stable::contiguous(database_labels)) {
    check(op, ours_, query, database);
    check(op, theirs_, database, database);
    STD_TORCH_CHECK(
        ours_.dim() == theirs_.dim() && (ours_.dim() == 1 || ours_.size(1) == theirs_.size(1)), op,
        ": labels of query and database are of different kinds");
    pointers_.multi_hot = ours_.dim() == 2;
    if (pointers_.multi_hot) {
      pointers_.query_bits = ours_.const_data_ptr<uint8_t>();
      pointers_.database_bits = theirs_.const_data_ptr<uint8_t>();
      pointers_.width = ours_.size(1);
    } else {
      pointers_.query_ids = ours_.const_data_ptr<int64_t>();
      pointers_.database_ids = theirs_.const_data_ptr<int64_t>();
    }
  }

  const LabelPointers& pointers() const { return pointers_; }

 private:
  static void check(const char* op, const Tensor& labels, const Tensor& codes,
                    const Tensor& database) {
    check_device(op, "labels", labels, database);
    STD_TORCH_CHECK(
        (labels.dim() == 1 && labels.scalar_type() == ScalarType::Long) ||
            (labels.dim() == 2 && labels.scalar_type() == ScalarType::Byte),
        op, ": labels must be int64 [n] class ids or uint8 [n, bytes] packed multi-hot rows");
    STD_TORCH_CHECK(labels.size(0) == codes.size(0), op, ": ", labels.size(0), " labels for ",
                    codes.size(0), " codes");
  }

  Tensor ours_, theirs_;
  LabelPointers pointers_{};
};

inline Tensor workspace_like(const Tensor& tensor, size_t bytes) {
  return torch::stable::new_empty(tensor, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
}

// Numbers of a GPU, once the current stream has computed them.
inline Tensor on_cpu(const Tensor& numbers) {
  return torch::stable::to(numbers, torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

}  // namespace hashfast
