// Per column: select the k smallest entries, give them target -1 and the others +1, and add up
// squared differences. Selection replaces the sort, because the target takes two values only.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../checks.h"
#include "../philox.h"

namespace hashfast {
namespace {

constexpr int64_t kColumns = 16;  // columns gathered together: one cache line of float32 a row

__extension__ typedef unsigned __int128 uint128_t;

// An integer that orders like (value, row): NaN last, both zeros equal, ties by row.
template <class Value>
auto sort_key(Value value, int64_t row) {
  using Bits = std::conditional_t<std::is_same_v<Value, double>, uint64_t, uint32_t>;
  using Key = std::conditional_t<std::is_same_v<Value, double>, uint128_t, uint64_t>;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(Bits) - 1);
  Bits bits = ~Bits{0};
  if (!std::isnan(value)) {
    value += Value{0};  // -0 becomes +0
    std::memcpy(&bits, &value, sizeof(bits));
    bits = bits & kSign ? ~bits : bits | kSign;
  }
  return (Key{bits} << 32) | static_cast<uint32_t>(row);
}

struct Column {
  int64_t negatives;
  bool median;  // the entry after the negatives has target 0
};

template <class Scalar>
void columns(const Scalar* outputs, int64_t n, int64_t bits, int64_t first, int64_t last,
             const std::vector<Column>& column, void* distances_out, int8_t* target) {
  using Value = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;
  using Key = decltype(sort_key(Value{}, 0));
  const int64_t width = last - first;
  std::vector<Key> keys(n * width), scratch(n);
  for (int64_t row = 0; row < n; ++row)
    for (int64_t j = 0; j < width; ++j)
      keys[j * n + row] = sort_key(static_cast<Value>(outputs[row * bits + first + j]), row);
  Key cut[kColumns];  // the first key that is not a negative; none if all are
  bool all[kColumns];
  for (int64_t j = 0; j < width; ++j) {
    const int64_t k = column[first + j].negatives;
    all[j] = k >= n;
    if (all[j]) continue;
    std::copy_n(keys.begin() + j * n, n, scratch.begin());
    std::nth_element(scratch.begin(), scratch.begin() + k, scratch.end());
    cut[j] = scratch[k];
  }
  double sums[kColumns] = {};
  for (int64_t row = 0; row < n; ++row)
    for (int64_t j = 0; j < width; ++j) {
      const Key key = keys[j * n + row];
      const bool middle = !all[j] && key == cut[j] && column[first + j].median;
      const int8_t t = all[j] || key < cut[j] ? -1 : middle ? 0 : 1;
      target[row * bits + first + j] = t;
      const double gap = static_cast<double>(outputs[row * bits + first + j]) - t;
      sums[j] += gap * gap;
    }
  for (int64_t j = 0; j < width; ++j)
    static_cast<Value*>(distances_out)[first + j] = static_cast<Value>(n ? sums[j] / n : 0.0);
}

std::tuple<Tensor, Tensor> binary_wasserstein(const Tensor& outputs,
                                              const std::optional<Tensor>& negatives,
                                              const std::optional<Tensor>& seed) {
  STD_TORCH_CHECK(outputs.dim() == 2, "binary_wasserstein: outputs must be [n, bits]");
  const Tensor rows = torch::stable::contiguous(outputs);
  const int64_t n = rows.size(0), bits = rows.size(1);
  STD_TORCH_CHECK(n <= int64_t{0xFFFFFFFF}, "binary_wasserstein: more than 2^32 - 1 rows");

  std::vector<Column> column(bits, Column{n / 2, n % 2 == 1});
  if (negatives) {
    STD_TORCH_CHECK(negatives->scalar_type() == ScalarType::Int && negatives->dim() == 1 &&
                        negatives->size(0) == bits,
                    "binary_wasserstein: negatives must be int32 [", bits, "]");
    const Tensor counts = torch::stable::contiguous(*negatives);
    for (int64_t j = 0; j < bits; ++j) {
      const int32_t k = counts.const_data_ptr<int32_t>()[j];
      column[j] = {std::clamp<int64_t>(k, 0, n), false};
    }
  } else if (seed) {
    STD_TORCH_CHECK(seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
                    "binary_wasserstein: seed must be one int64");
    const auto key = static_cast<uint64_t>(*seed->const_data_ptr<int64_t>());
    for (int64_t j = 0; j < bits; ++j)
      column[j] = {binomial_half(key, n, static_cast<uint32_t>(j)), false};
  }

  const ScalarType dtype = rows.scalar_type();
  const ScalarType distance_dtype = dtype == ScalarType::Double ? dtype : ScalarType::Float;
  Tensor distances = torch::stable::new_empty(rows, {bits}, distance_dtype);
  Tensor target = torch::stable::new_empty(rows, {n, bits}, ScalarType::Char);
  void* const distances_out = distances.mutable_data_ptr();
  int8_t* const target_out = target.mutable_data_ptr<int8_t>();
  THO_DISPATCH_V2(dtype, "binary_wasserstein", AT_WRAP([&] {
                    const scalar_t* const in = rows.const_data_ptr<scalar_t>();
                    torch::stable::parallel_for(0, (bits + kColumns - 1) / kColumns, 1,
                                                [&](int64_t begin, int64_t end) {
                                                  for (int64_t tile = begin; tile < end; ++tile)
                                                    columns(in, n, bits, tile * kColumns,
                                                            std::min(bits, (tile + 1) * kColumns),
                                                            column, distances_out, target_out);
                                                });
                  }),
                  ScalarType::Double, ScalarType::Float, ScalarType::Half, ScalarType::BFloat16);
  return {distances, target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) {
  m.impl("binary_wasserstein", TORCH_BOX(&binary_wasserstein));
}

}  // namespace hashfast
