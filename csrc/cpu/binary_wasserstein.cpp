// Squared Wasserstein distance of every column to a +-1 target, and its gradient: the operations
// around the kernels of binary_wasserstein_columns.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <tuple>
#include <vector>

#include "../cpu_level.h"
#include "binary_wasserstein_kernels.h"
#include "floating_tensors.h"

namespace hashfast {
namespace {

// Entries worth a thread of their own.
constexpr int64_t kGrain = 1 << 14;

const WassersteinKernels& kernels() {
#if HASHFAST_X86
  switch (cpu_level()) {
    case CpuLevel::avx512: return avx512::wasserstein_kernels;
    case CpuLevel::avx2: return avx2::wasserstein_kernels;
    case CpuLevel::portable: break;
  }
#endif
  return portable::wasserstein_kernels;
}

Floating type_of(const Tensor& outputs) {
  return floating(outputs.scalar_type(), "binary_wasserstein: outputs");
}

// Rows [first, first + rows) and columns [column, column + columns).
Matrix part(const Tensor& tensor, int64_t first, int64_t rows, int64_t column, int64_t columns) {
  const int64_t row_stride = tensor.stride(0), column_stride = tensor.stride(1);
  const int64_t offset = first * row_stride + column * column_stride;
  const auto* const data = static_cast<const char*>(tensor.const_data_ptr());
  return {data + offset * bytes_of(type_of(tensor)), rows, columns, row_stride, column_stride};
}

std::vector<int64_t> negatives_of(const Tensor& outputs, const std::optional<Tensor>& negatives,
                                  const std::optional<Tensor>& seed) {
  const int64_t n = outputs.size(0), bits = outputs.size(1);
  std::vector<int64_t> counts(bits, n / 2);
  if (negatives) {
    STD_TORCH_CHECK(negatives->scalar_type() == ScalarType::Int && negatives->dim() == 1 &&
                        negatives->size(0) == bits,
                    "binary_wasserstein: negatives must be int32 [", bits, "]");
    const auto* const given = negatives->const_data_ptr<int32_t>();
    for (int64_t j = 0; j < bits; ++j)
      counts[j] = std::clamp<int64_t>(given[j * negatives->stride(0)], 0, n);
  } else if (seed) {
    STD_TORCH_CHECK(seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
                    "binary_wasserstein: seed must be one int64");
    const auto key = static_cast<uint64_t>(*seed->const_data_ptr<int64_t>());
    kernels().binomial_half(key, n, 0, bits, counts.data());
  }
  return counts;
}

std::tuple<Tensor, Tensor> binary_wasserstein(const Tensor& outputs,
                                              const std::optional<Tensor>& negatives,
                                              const std::optional<Tensor>& seed, bool mean) {
  STD_TORCH_CHECK(outputs.dim() == 2, "binary_wasserstein: outputs must be [n, bits]");
  const int64_t n = outputs.size(0), bits = outputs.size(1);
  STD_TORCH_CHECK(n < std::numeric_limits<int32_t>::max(),
                  "binary_wasserstein: more than 2^31 - 2 rows");
  const Floating type = type_of(outputs);
  const std::vector<int64_t> counts = negatives_of(outputs, negatives, seed);
  const bool median = !negatives && !seed && n % 2;

  Tensor target = new_empty(outputs, {n, bits}, ScalarType::Char);
  int8_t* const target_out = target.mutable_data_ptr<int8_t>();
  std::vector<double> sums(bits);
  const int64_t vector_bytes = kernels().vector_bytes;
  const int64_t lanes = vector_bytes / std::max<int64_t>(bytes_of(type), 4);
  const auto search = [&](int64_t begin, int64_t end) {
    const auto align = std::align_val_t(vector_bytes);
    const auto free = [align](void* room) { ::operator delete(room, align); };
    const std::unique_ptr<void, decltype(free)> keys(::operator new(n * vector_bytes, align), free);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t column = tile * lanes, columns = std::min(lanes, bits - column);
      kernels().columns[type]({part(outputs, 0, n, column, columns), counts.data() + column, median,
                               target_out + column, bits, sums.data() + column, keys.get()});
    }
  };
  if (n)
    torch::stable::parallel_for(0, (bits + lanes - 1) / lanes,
                                std::max<int64_t>(1, kGrain / (n * lanes)), search);

  const double rows = static_cast<double>(std::max<int64_t>(n, 1));
  if (mean) {
    double total = 0;
    for (const double sum : sums) total += sum;
    sums.assign(1, total / static_cast<double>(bits));
  }
  const ScalarType dtype = type == kFloat64 ? ScalarType::Double : ScalarType::Float;
  Tensor distances = mean ? new_empty(outputs, {}, dtype) : new_empty(outputs, {bits}, dtype);
  for (size_t j = 0; j < sums.size(); ++j)
    if (type == kFloat64)
      distances.mutable_data_ptr<double>()[j] = sums[j] / rows;
    else
      distances.mutable_data_ptr<float>()[j] = static_cast<float>(sums[j] / rows);
  return {distances, target};
}

// 2 / n times the gradient of each column's distance; of their mean, the same for every column.
template <class Value>
std::vector<Value> scale_of(const Tensor& grad, int64_t n, int64_t bits) {
  const auto* const given = static_cast<const Value*>(grad.const_data_ptr());
  const int64_t stride = grad.dim() ? grad.stride(0) : 0;
  const double shares = grad.dim() ? 1 : static_cast<double>(bits);
  std::vector<Value> scale(bits);
  for (int64_t j = 0; j < bits; ++j)
    scale[j] = static_cast<Value>(2 / (static_cast<double>(n) * shares) * given[j * stride]);
  return scale;
}

Tensor binary_wasserstein_backward(const Tensor& grad, const Tensor& outputs,
                                   const Tensor& target) {
  STD_TORCH_CHECK(outputs.dim() == 2 && target.dim() == 2 && target.size(0) == outputs.size(0) &&
                      target.size(1) == outputs.size(1) && target.scalar_type() == ScalarType::Char,
                  "binary_wasserstein_backward: outputs are [n, bits] and target is int8 alike");
  const int64_t n = outputs.size(0), bits = outputs.size(1);
  const Floating type = type_of(outputs);
  const ScalarType dtype = type == kFloat64 ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(
      grad.scalar_type() == dtype && (!grad.dim() || (grad.dim() == 1 && grad.size(0) == bits)),
      "binary_wasserstein_backward: grad must be [", bits, "] or a scalar, in ",
      type == kFloat64 ? "float64" : "float32");
  Tensor gradient = new_empty(outputs, {n, bits}, outputs.scalar_type());
  if (n == 0 || bits == 0) return gradient;
  const Tensor signs = target.is_contiguous() ? target : torch::stable::contiguous(target);
  std::vector<double> wide;
  std::vector<float> narrow;
  if (type == kFloat64)
    wide = scale_of<double>(grad, n, bits);
  else
    narrow = scale_of<float>(grad, n, bits);
  const void* const scale =
      type == kFloat64 ? static_cast<const void*>(wide.data()) : narrow.data();
  const auto* const sign = signs.const_data_ptr<int8_t>();
  auto* const out = static_cast<char*>(gradient.mutable_data_ptr());
  torch::stable::parallel_for(
      0, n, std::max<int64_t>(1, kGrain / bits), [&](int64_t begin, int64_t end) {
        kernels().gradient[type]({part(outputs, begin, end - begin, 0, bits), sign + begin * bits,
                                  scale, out + begin * bits * bytes_of(type)});
      });
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) {
  m.impl("binary_wasserstein", TORCH_BOX(&binary_wasserstein));
  m.impl("binary_wasserstein_backward", TORCH_BOX(&binary_wasserstein_backward));
}

}  // namespace hashfast
