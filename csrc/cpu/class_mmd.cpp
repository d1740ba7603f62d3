// Squared distances between the class means of two sides, and the gradient of class means: the
// operations around the kernels of class_mmd_rows.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../cpu_level.h"
#include "class_mmd_kernels.h"
#include "floating_tensors.h"

namespace hashfast {
namespace {

// Entries worth a thread of their own.
constexpr int64_t kGrain = 1 << 15;

const ClassKernels& kernels() {
#if HASHFAST_X86
  switch (cpu_level()) {
    case CpuLevel::avx512: return avx512::class_kernels;
    case CpuLevel::avx2: return avx2::class_kernels;
    case CpuLevel::portable: break;
  }
#endif
  return portable::class_kernels;
}

Floating type_of(const Tensor& features) {
  return floating(features.scalar_type(), "class_mmd: features");
}

Tensor in_one_piece(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Classes as hashfast/ops/class_mmd.py describes them; every index has been checked.
class HASHFAST_LOCAL Classes {
 public:
  Classes(const Tensor& rows, const Tensor& offsets, int64_t num_rows)
      : held_rows_(in_one_piece(rows)), held_offsets_(in_one_piece(offsets)) {
    STD_TORCH_CHECK(
        rows.dim() == 1 && rows.scalar_type() == ScalarType::Long && rows.size(0) == num_rows &&
            offsets.dim() == 1 && offsets.scalar_type() == ScalarType::Long && offsets.size(0) >= 1,
        "class_mmd: classes are int64 rows [", num_rows, "] and int64 offsets [classes + 1]");
    count = offsets.size(0) - 1;
    this->rows = held_rows_.const_data_ptr<int64_t>();
    this->offsets = held_offsets_.const_data_ptr<int64_t>();
    bool valid = this->offsets[0] >= 0 && this->offsets[count] <= num_rows;
    for (int64_t c = 0; c < count; ++c) valid &= this->offsets[c] <= this->offsets[c + 1];
    for (int64_t i = 0; i < num_rows; ++i) valid &= this->rows[i] >= 0 && this->rows[i] < num_rows;
    STD_TORCH_CHECK(valid, "class_mmd: rows or offsets point outside of the ", num_rows, " rows");
  }
  int64_t size(int64_t c) const { return offsets[c + 1] - offsets[c]; }

  int64_t count;
  const int64_t *rows, *offsets;

 private:
  Tensor held_rows_, held_offsets_;
};

// Rows in the order of their classes: those below class 0, class by class, those above the last.
std::tuple<Tensor, Tensor> class_rows(const Tensor& labels, int64_t num_classes) {
  STD_TORCH_CHECK(labels.dim() == 1 && labels.scalar_type() == ScalarType::Long && num_classes >= 0,
                  "class_rows: labels must be int64 [n], and num_classes not negative");
  const int64_t n = labels.size(0), stride = labels.stride(0);
  const auto* const label = labels.const_data_ptr<int64_t>();
  Tensor rows = new_empty(labels, {n}, ScalarType::Long);
  Tensor offsets = new_empty(labels, {num_classes + 1}, ScalarType::Long);
  const auto bucket = [&](int64_t i) {
    return std::clamp<int64_t>(label[i * stride], -1, num_classes) + 1;
  };
  std::vector<int64_t> start(num_classes + 3);
  for (int64_t i = 0; i < n; ++i) ++start[bucket(i) + 1];
  for (int64_t b = 0; b < num_classes + 2; ++b) start[b + 1] += start[b];
  std::copy_n(start.begin() + 1, num_classes + 1, offsets.mutable_data_ptr<int64_t>());
  auto* const out = rows.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) out[start[bucket(i)]++] = i;
  return {rows, offsets};
}

// Features as they lie in memory, with the entries of a row adjacent.
class HASHFAST_LOCAL Features {
 public:
  explicit Features(const Tensor& features)
      : held_(features.stride(1) == 1 ? features : in_one_piece(features)),
        data_(static_cast<const char*>(held_.const_data_ptr())),
        row_stride_(held_.stride(0)),
        bytes_(bytes_of(type_of(features))) {}
  ClassRows of(const Classes& classes, int64_t c, int64_t column) const {
    return {data_ + column * bytes_, row_stride_, classes.rows + classes.offsets[c],
            classes.size(c)};
  }

 private:
  Tensor held_;
  const char* data_;
  int64_t row_stride_, bytes_;
};

std::tuple<Tensor, Tensor> class_mmd(const Tensor& real, const Tensor& synthetic,
                                     const Tensor& real_rows, const Tensor& real_offsets,
                                     const Tensor& synthetic_rows,
                                     const Tensor& synthetic_offsets) {
  STD_TORCH_CHECK(real.dim() == 2 && synthetic.dim() == 2 && real.size(1) == synthetic.size(1) &&
                      real.scalar_type() == synthetic.scalar_type(),
                  "class_mmd: features must be [n, d] and [m, d] of one dtype");
  const Classes real_classes(real_rows, real_offsets, real.size(0));
  const Classes synthetic_classes(synthetic_rows, synthetic_offsets, synthetic.size(0));
  const int64_t classes = real_classes.count, columns = real.size(1);
  STD_TORCH_CHECK(synthetic_classes.count == classes, "class_mmd: ", classes, " real classes and ",
                  synthetic_classes.count, " synthetic ones");
  const Floating type = type_of(real);
  const ScalarType dtype = accumulator_dtype(type);
  const int64_t bytes = type == kFloat64 ? 8 : 4;
  const Features real_side(real), synthetic_side(synthetic);

  Tensor difference = new_empty(real, {classes, columns}, dtype);
  auto* const out = static_cast<char*>(difference.mutable_data_ptr());
  const int64_t blocks = (columns + kClassColumns - 1) / kClassColumns;
  std::vector<double> squared(classes * blocks);
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c = task / blocks, column = task % blocks * kClassColumns;
      const int64_t width = std::min(kClassColumns, columns - column);
      char* const gap = out + (c * columns + column) * bytes;
      if (real_classes.size(c) && synthetic_classes.size(c))
        kernels().gap[type]({real_side.of(real_classes, c, column),
                             synthetic_side.of(synthetic_classes, c, column), width, gap,
                             &squared[task]});
      else
        std::fill_n(gap, width * bytes, char{0});
    }
  };
  if (!squared.empty()) {
    const int64_t entries = (real.size(0) + synthetic.size(0)) * columns;
    const int64_t a_task = std::max<int64_t>(1, entries / static_cast<int64_t>(squared.size()));
    torch::stable::parallel_for(0, static_cast<int64_t>(squared.size()),
                                std::max<int64_t>(1, kGrain / a_task), run);
  }
  double total = 0;
  for (const double part : squared) total += part;
  Tensor loss = new_empty(real, {}, dtype);
  if (type == kFloat64)
    *loss.mutable_data_ptr<double>() = total;
  else
    *loss.mutable_data_ptr<float>() = static_cast<float>(total);
  return {loss, difference};
}

Tensor class_mean_backward(const Tensor& grad, const Tensor& scale, const Tensor& rows,
                           const Tensor& offsets, ScalarType dtype) {
  STD_TORCH_CHECK(grad.dim() == 2 && offsets.dim() == 1 && grad.size(0) == offsets.size(0) - 1 &&
                      rows.dim() == 1,
                  "class_mean_backward: grad must be [classes, d]");
  const int64_t n = rows.size(0), columns = grad.size(1);
  const Floating type = floating(dtype, "class_mmd: features");
  STD_TORCH_CHECK(grad.scalar_type() == accumulator_dtype(type) &&
                      scale.scalar_type() == accumulator_dtype(type) && scale.numel() == 1,
                  "class_mean_backward: grad and the scalar scale must be ",
                  type == kFloat64 ? "float64" : "float32");
  const Classes classes(rows, offsets, n);
  const Tensor grads = in_one_piece(grad);
  const auto* const given = static_cast<const char*>(grads.const_data_ptr());
  const double factor =
      type == kFloat64 ? *scale.const_data_ptr<double>() : *scale.const_data_ptr<float>();
  const int64_t row_bytes = columns * bytes_of(type);
  const int64_t grad_bytes = columns * (type == kFloat64 ? 8 : 4);

  Tensor gradient = new_empty(grad, {n, columns}, dtype);
  auto* const out = static_cast<char*>(gradient.mutable_data_ptr());
  const auto zero = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::fill_n(out + classes.rows[i] * row_bytes, row_bytes, char{0});
  };
  const auto run = [&](int64_t begin, int64_t end) {
    const int64_t* const first = classes.offsets;
    const int64_t* const last = first + classes.count;
    zero(begin, std::min(end, *first));
    zero(std::max(begin, *last), end);
    int64_t at = std::max(begin, *first);
    while (at < std::min(end, *last)) {
      const int64_t c = std::upper_bound(first, last, at) - first - 1;
      const int64_t stop = std::min(end, first[c + 1]);
      kernels().spread[type]({given + c * grad_bytes, factor / static_cast<double>(classes.size(c)),
                              columns, classes.rows + at, stop - at, out});
      at = stop;
    }
  };
  if (n && columns) torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / columns), run);
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) {
  m.impl("class_rows", TORCH_BOX(&class_rows));
  m.impl("class_mmd", TORCH_BOX(&class_mmd));
  m.impl("class_mean_backward", TORCH_BOX(&class_mean_backward));
}

}  // namespace hashfast
