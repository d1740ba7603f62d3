// Log-sum-exp of masked cosines over all keys, and its gradients: the operations around the kernels
// of masked_contrastive_tiles.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <tuple>
#include <vector>

#include "../cpu_level.h"
#include "floating_tensors.h"
#include "masked_contrastive_kernels.h"

namespace hashfast {
namespace {

// Products worth a thread of their own.
constexpr int64_t kGrain = 1 << 20;
// As in hashfast/ops/masked_contrastive.py: sums of up to exp(this) need no shift.
constexpr double kLargestLogit = 40;
constexpr int64_t kAlignment = 64;  // bytes, of rows and tiles

const ContrastKernels& kernels() {
#if HASHFAST_X86
  switch (cpu_level()) {
    case CpuLevel::avx512: return avx512::contrast_kernels;
    case CpuLevel::avx2: return avx2::contrast_kernels;
    case CpuLevel::portable: break;
  }
#endif
  return portable::contrast_kernels;
}

Floating type_of(const Tensor& rows) {
  return floating(rows.scalar_type(), "masked_contrastive: rows");
}
constexpr int64_t up_to_multiple(int64_t count, int64_t of) { return (count + of - 1) / of * of; }

// Aligned memory.
class Room {
 public:
  explicit Room(int64_t bytes)
      : data_(static_cast<char*>(::operator new(bytes, std::align_val_t(kAlignment)))) {}
  char* at(int64_t bytes) const { return data_.get() + bytes; }

 private:
  struct Free {
    void operator()(char* data) const { ::operator delete(data, std::align_val_t(kAlignment)); }
  };
  std::unique_ptr<char, Free> data_;
};

// Rows as they lie in memory, with the entries of a row adjacent.
class HASHFAST_LOCAL Rows {
 public:
  explicit Rows(const Tensor& rows)
      : held_(rows.stride(1) == 1 ? rows : torch::stable::contiguous(rows)),
        data_(static_cast<const char*>(held_.const_data_ptr())),
        count(rows.size(0)),
        bits(rows.size(1)),
        type(type_of(rows)),
        value_bytes(bytes_of(accumulator(type))),
        stride(up_to_multiple(bits, kAlignment / value_bytes)) {}

  // Unit rows [number, stride] and their lengths, of those from `first` on.
  void units(int64_t first, int64_t number, void* unit, double* length) const {
    const int64_t row_stride = held_.stride(0);
    kernels().units[type]({data_ + first * row_stride * bytes_of(type), row_stride, number, bits,
                           stride, unit, length});
  }

 private:
  Tensor held_;
  const char* data_;

 public:
  int64_t count, bits;
  Floating type;
  int64_t value_bytes, stride;  // of unit rows
};

template <class Integer>
void copy_ids(const Tensor& groups, std::vector<int64_t>& ids) {
  const auto* const given = static_cast<const Integer*>(groups.const_data_ptr());
  const int64_t stride = groups.stride(0);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int64_t>(given[static_cast<int64_t>(i) * stride]);
}

// Group ids of any integer type; empty if there are none.
std::vector<int64_t> ids_of(const std::optional<Tensor>& groups, int64_t rows) {
  if (!groups) return {};
  STD_TORCH_CHECK(groups->dim() == 1 && groups->size(0) == rows,
                  "masked_contrastive: groups must be [", rows, "]");
  std::vector<int64_t> ids(rows);
  switch (groups->scalar_type()) {
    case ScalarType::Long: copy_ids<int64_t>(*groups, ids); break;
    case ScalarType::Int: copy_ids<int32_t>(*groups, ids); break;
    case ScalarType::Short: copy_ids<int16_t>(*groups, ids); break;
    case ScalarType::Char: copy_ids<int8_t>(*groups, ids); break;
    case ScalarType::Byte: copy_ids<uint8_t>(*groups, ids); break;
    case ScalarType::Bool: copy_ids<bool>(*groups, ids); break;
    case ScalarType::UInt16: copy_ids<uint16_t>(*groups, ids); break;
    case ScalarType::UInt32: copy_ids<uint32_t>(*groups, ids); break;
    case ScalarType::UInt64: copy_ids<uint64_t>(*groups, ids); break;
    default: STD_TORCH_CHECK(false, "masked_contrastive: ids of groups are integers");
  }
  return ids;
}

// Columns that are not allowed for each row, ascending: columns[offsets[i]] up to offsets[i + 1].
struct Excluded {
  std::vector<int64_t> offsets, columns;

  const int64_t* from(int64_t row) const { return offsets.empty() ? nullptr : &offsets[row]; }
};

// From int64 [anchors, E], with anchors as rows or as columns; keys that do not exist are left out.
Excluded excluded_of(const std::optional<Tensor>& excluded, int64_t anchors, int64_t keys,
                     bool anchors_are_rows) {
  Excluded found;
  if (!excluded) return found;
  STD_TORCH_CHECK(excluded->dim() == 2 && excluded->size(0) == anchors &&
                      excluded->scalar_type() == ScalarType::Long,
                  "masked_contrastive: excluded must be int64 [", anchors, ", E]");
  const auto* const given = excluded->const_data_ptr<int64_t>();
  const int64_t each = excluded->size(1);
  const int64_t row_stride = excluded->stride(0), stride = excluded->stride(1);
  const auto visit = [&](const auto& use) {
    for (int64_t i = 0; i < anchors; ++i)
      for (int64_t e = 0; e < each; ++e) {
        const int64_t key = given[i * row_stride + e * stride];
        if (key >= 0 && key < keys) anchors_are_rows ? use(i, key) : use(key, i);
      }
  };
  std::vector<int64_t> next((anchors_are_rows ? anchors : keys) + 2);
  visit([&](int64_t row, int64_t) { ++next[row + 2]; });
  for (size_t i = 2; i < next.size(); ++i) next[i] += next[i - 1];
  found.columns.resize(next.back());
  visit([&](int64_t row, int64_t column) { found.columns[next[row + 1]++] = column; });
  next.pop_back();
  found.offsets = std::move(next);
  if (anchors_are_rows && each > 1)
    for (int64_t i = 0; i < anchors; ++i)
      std::sort(found.columns.begin() + found.offsets[i],
                found.columns.begin() + found.offsets[i + 1]);
  return found;
}

// One side of the pairs, as a pass reads it.
class HASHFAST_LOCAL Columns {
 public:
  // factor, shift, ids: of each column, or empty.
  Columns(const Rows& rows, const std::vector<int64_t>& ids, const std::vector<double>& factor,
          const std::vector<double>& shift)
      : count(rows.count),
        tile_bytes_((rows.bits + kContrastExtraLines) * kContrastColumns * rows.value_bytes),
        value_bytes_(up_to_multiple(count, kContrastColumns) * rows.stride * rows.value_bytes),
        room_(value_bytes_ + tiles() * tile_bytes_) {
    const auto run = [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t first = t * kContrastColumns;
        const int64_t number = std::min(kContrastColumns, count - first);
        char* const values = room_.at(first * rows.stride * rows.value_bytes);
        double length[kContrastColumns];
        rows.units(first, number, values, length);
        const auto part = [first](const auto& of) { return of.empty() ? nullptr : &of[first]; };
        kernels().tile[accumulator(rows.type)]({number, rows.bits, rows.stride, part(factor),
                                                part(shift), part(ids), values,
                                                room_.at(value_bytes_ + t * tile_bytes_)});
      }
    };
    if (count)
      torch::stable::parallel_for(
          0, tiles(), std::max<int64_t>(1, kGrain / (16 * kContrastColumns * rows.bits)), run);
  }
  const void* values() const { return room_.at(0); }
  const void* data() const { return room_.at(value_bytes_); }

  int64_t count;

 private:
  int64_t tiles() const { return (count + kContrastColumns - 1) / kContrastColumns; }

  int64_t tile_bytes_, value_bytes_;
  Room room_;
};

// Some rows after a pass.
struct Passed {
  int64_t first, count;
  double *total, *shift;
  ContrastGradient gradient;  // its divisor is 1, its destination not set
};

// All rows with all columns; finish(Passed) takes the results of some rows at a time.
template <class Finish>
void pass(const Rows& rows, const std::vector<int64_t>& ids, const Columns& columns,
          const Excluded& excluded, double temperature, bool running_shift, bool with_pull,
          const Finish& finish) {
  const int64_t row_bytes = rows.stride * rows.value_bytes;
  const auto run = [&](int64_t begin, int64_t end) {
    const Room room(3 * kContrastRows * row_bytes);
    char *const unit = room.at(0), *const pull = room.at(kContrastRows * row_bytes);
    std::fill_n(unit, kContrastRows * row_bytes, char{0});
    double length[kContrastRows], total[kContrastRows], shift[kContrastRows], one[kContrastRows];
    const int64_t last = std::min(rows.count, end * kContrastGroup);
    for (int64_t first = begin * kContrastGroup; first < last; first += kContrastRows) {
      const int64_t count = std::min(kContrastRows, last - first);
      rows.units(first, count, unit, length);
      std::fill_n(one, count, 1.0);
      // A temperature beyond all floats has logits of 0, not 0 times -inf.
      const double inverse = std::max<double>(1 / temperature, std::numeric_limits<float>::min());
      kernels().pass[accumulator(rows.type)](
          {columns.data(), columns.values(), columns.count, rows.bits, rows.stride, inverse, unit,
           count, ids.empty() ? nullptr : &ids[first], excluded.from(first),
           excluded.columns.data(), running_shift, with_pull ? pull : nullptr, total, shift});
      finish(Passed{first,
                    count,
                    total,
                    shift,
                    {pull, unit, one, length, count, rows.bits, rows.stride, nullptr}});
    }
  };
  const int64_t groups = (rows.count + kContrastGroup - 1) / kContrastGroup;
  const int64_t products = kContrastGroup * std::max<int64_t>(1, columns.count) * rows.bits;
  if (groups) torch::stable::parallel_for(0, groups, std::max<int64_t>(1, kGrain / products), run);
}

void check(const Tensor& anchors, const Tensor& keys, const std::optional<Tensor>& anchor_groups,
           const std::optional<Tensor>& key_groups) {
  STD_TORCH_CHECK(anchors.dim() == 2 && keys.dim() == 2 && anchors.size(1) == keys.size(1) &&
                      anchors.size(1) >= 1,
                  "masked_contrastive: anchors and keys must be [M, b] and [R, b], b >= 1");
  STD_TORCH_CHECK(accumulator(type_of(anchors)) == accumulator(type_of(keys)),
                  "masked_contrastive: anchors and keys must be both float64, or neither");
  STD_TORCH_CHECK(anchor_groups.has_value() == key_groups.has_value(),
                  "masked_contrastive: groups of anchors and keys go together");
}

template <class Value>
void copy_out(const std::vector<double>& values, Tensor& to) {
  auto* const out = to.mutable_data_ptr<Value>();
  for (size_t i = 0; i < values.size(); ++i) out[i] = static_cast<Value>(values[i]);
}

template <class Value>
std::vector<double> copy_in(const Tensor& values) {
  const auto* const given = values.const_data_ptr<Value>();
  std::vector<double> found(values.size(0));
  for (int64_t i = 0; i < values.size(0); ++i)
    found[i] = static_cast<double>(given[i * values.stride(0)]);
  return found;
}

std::tuple<Tensor, Tensor> masked_contrastive(const Tensor& anchors, const Tensor& keys,
                                              const std::optional<Tensor>& anchor_groups,
                                              const std::optional<Tensor>& key_groups,
                                              const std::optional<Tensor>& excluded,
                                              double temperature, bool with_gradient) {
  check(anchors, keys, anchor_groups, key_groups);
  const Rows rows(anchors);
  const int64_t m = rows.count, bits = rows.bits;
  const Excluded without = excluded_of(excluded, m, keys.size(0), true);
  const Columns columns(Rows(keys), ids_of(key_groups, keys.size(0)), {}, {});
  const Floating value = accumulator(rows.type);
  Tensor logsumexp = new_empty(anchors, {m}, accumulator_dtype(value));
  Tensor gradient = with_gradient ? new_empty(anchors, {m, bits}, accumulator_dtype(value))
                                  : new_empty(anchors, {0}, accumulator_dtype(value));
  auto* const out = static_cast<char*>(gradient.mutable_data_ptr());
  std::vector<double> found(m);
  const auto finish = [&](const Passed& passed) {
    double divisor[kContrastRows];
    for (int64_t i = 0; i < passed.count; ++i) {
      const double total = passed.total[i];
      found[passed.first + i] = std::log(total) + passed.shift[i];  // log 0 is -inf
      divisor[i] = temperature * (total == 0 ? 1 : total);
    }
    if (!with_gradient) return;
    ContrastGradient task = passed.gradient;
    task.divisor = divisor;
    task.gradient = out + passed.first * bits * rows.value_bytes;
    kernels().gradient[value](task);
  };
  pass(rows, ids_of(anchor_groups, m), columns, without, temperature,
       1 / temperature > kLargestLogit, with_gradient, finish);
  value == kFloat64 ? copy_out<double>(found, logsumexp) : copy_out<float>(found, logsumexp);
  return {logsumexp, gradient};
}

Tensor masked_contrastive_backward(const Tensor& grad, const Tensor& logsumexp,
                                   const Tensor& anchors, const Tensor& keys,
                                   const std::optional<Tensor>& anchor_groups,
                                   const std::optional<Tensor>& key_groups,
                                   const std::optional<Tensor>& excluded, double temperature) {
  check(anchors, keys, anchor_groups, key_groups);
  const Rows rows(keys), others(anchors);
  const int64_t m = others.count;
  const Floating value = accumulator(rows.type);
  STD_TORCH_CHECK(grad.dim() == 1 && logsumexp.dim() == 1 && grad.size(0) == m &&
                      logsumexp.size(0) == m && grad.scalar_type() == accumulator_dtype(value) &&
                      logsumexp.scalar_type() == accumulator_dtype(value),
                  "masked_contrastive_backward: grad and logsumexp must be ",
                  value == kFloat64 ? "float64" : "float32", " [", m, "]");
  const auto values = [&](const Tensor& of) {
    return value == kFloat64 ? copy_in<double>(of) : copy_in<float>(of);
  };
  std::vector<double> factor = values(grad), shift = values(logsumexp);
  for (int64_t i = 0; i < m; ++i) {
    const double found = shift[i];
    if (1 / temperature <= kLargestLogit || !std::isfinite(found)) shift[i] = 0;
    // An anchor without a key has no weight.
    factor[i] = found == -std::numeric_limits<double>::infinity()
                    ? 0
                    : factor[i] * std::exp(shift[i] - found) / temperature;
  }
  const Columns columns(others, ids_of(anchor_groups, m), factor, shift);
  const Excluded without = excluded_of(excluded, m, rows.count, false);
  Tensor gradient = new_empty(keys, {rows.count, rows.bits}, keys.scalar_type());
  auto* const out = static_cast<char*>(gradient.mutable_data_ptr());
  const auto finish = [&](const Passed& passed) {
    ContrastGradient task = passed.gradient;
    task.gradient = out + passed.first * rows.bits * bytes_of(rows.type);
    kernels().gradient[rows.type](task);
  };
  pass(rows, ids_of(key_groups, rows.count), columns, without, temperature, false, true, finish);
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) {
  m.impl("masked_contrastive", TORCH_BOX(&masked_contrastive));
  m.impl("masked_contrastive_backward", TORCH_BOX(&masked_contrastive_backward));
}

}  // namespace hashfast
