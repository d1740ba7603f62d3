// Floating-point tensors, as the operations around the kernels take and make them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <initializer_list>

#include "../checks.h"
#include "floating.h"

namespace hashfast {

// rows: what the message calls the tensor, after the operation's name.
inline Floating floating(ScalarType type, const char* rows) {
  switch (type) {
    case ScalarType::Double: return kFloat64;
    case ScalarType::Float: return kFloat32;
    case ScalarType::Half: return kFloat16;
    case ScalarType::BFloat16: return kBFloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, rows, " must be float64, float32, float16 or bfloat16");
}

// What sums over entries of that type are held in.
constexpr ScalarType accumulator_dtype(Floating type) {
  return type == kFloat64 ? ScalarType::Double : ScalarType::Float;
}

// As torch::stable::new_empty, without looking the operation up by its name at every call.
inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes,
                        ScalarType dtype) {
  int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(like.get(), sizes.begin(),
                                                          static_cast<int64_t>(sizes.size()), &type,
                                                          nullptr, nullptr, 0, nullptr, &made));
  return Tensor(made);
}

}  // namespace hashfast
