// Which items share a class: equal ids, or a common bit of packed multi-hot rows.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../checks.h"
#include "hamming.h"

namespace hashfast {

class HASHFAST_LOCAL Labels {
 public:
  Labels(const char* op, const Tensor& labels, int64_t rows)
      : held_(torch::stable::contiguous(labels)) {
    STD_TORCH_CHECK(held_.size(0) == rows, op, ": ", held_.size(0), " labels for ", rows, " codes");
    multi_hot = held_.dim() != 1;
    if (!multi_hot) {
      STD_TORCH_CHECK(held_.scalar_type() == ScalarType::Long, op, ": class ids must be int64");
      ids = held_.const_data_ptr<int64_t>();
    } else {
      STD_TORCH_CHECK(held_.dim() == 2 && held_.scalar_type() == ScalarType::Byte, op,
                      ": packed multi-hot labels must be uint8 [n, bytes]");
      bits = held_.const_data_ptr<uint8_t>();
      width = held_.size(1);
    }
  }
  void check_like(const char* op, const Labels& other) const {
    STD_TORCH_CHECK(multi_hot == other.multi_hot && width == other.width, op,
                    ": labels of query and database are of different kinds");
  }

  // Whether our item i and their item j share a class.
  bool share(int64_t i, const Labels& other, int64_t j) const {
    if (!multi_hot) return ids[i] == other.ids[j];
    uint8_t common = 0;
    for (int64_t w = 0; w < width; ++w) common |= bits[i * width + w] & other.bits[j * width + w];
    return common != 0;
  }

  // The same for all of their items: 1 or 0 each.
  void share(int64_t i, const Labels& other, uint8_t* out) const {
    const int64_t rows = other.held_.size(0);
    if (multi_hot) {
      for (int64_t j = 0; j < rows; ++j) out[j] = share(i, other, j);
    } else {
      for (int64_t j = 0; j < rows; ++j) out[j] = ids[i] == other.ids[j];
    }
  }

  bool multi_hot;
  const int64_t* ids = nullptr;
  const uint8_t* bits = nullptr;
  int64_t width = 0;

 private:
  Tensor held_;
};

// For each block, which of its rows share a class with a query: a mask for each class of the
// queries, of which an item with several joins its own.
class HASHFAST_LOCAL ClassMasks {
 public:
  ClassMasks(const Labels& queries, Part part, const Labels& database)
      : queries_(queries), database_(database), words_(hamming_kernels().lanes / 64) {
    if (!queries.multi_hot) {
      classes_.assign(queries.ids + part.first, queries.ids + part.last);
      std::sort(classes_.begin(), classes_.end());
      classes_.erase(std::unique(classes_.begin(), classes_.end()), classes_.end());
      masks_ = AlignedWords(classes_.size() * words_);
      for (int64_t i = part.first; i < part.last; ++i)
        of_query_.push_back(class_of(queries.ids[i]));
    } else {
      masks_ = AlignedWords((8 * queries.width + 1) * words_);  // the last one is a query's
    }
    first_query_ = part.first;
  }

  void start(const Block& block) {
    const int64_t classes = queries_.multi_hot ? 8 * queries_.width : std::ssize(classes_);
    std::fill_n(masks_.data(), classes * words_, uint64_t{0});
    for (int64_t word = 0; word < words_; ++word)
      for (uint64_t rows = block.valid[word]; rows; rows &= rows - 1) {
        const int64_t row = block.first + 64 * word + __builtin_ctzll(rows);
        const uint64_t bit = rows & -rows;
        if (!queries_.multi_hot) {
          const int64_t id = class_of(database_.ids[row]);
          if (id >= 0) masks_.data()[id * words_ + word] |= bit;
        } else {
          for_bits(database_, row, [&](int64_t id) { masks_.data()[id * words_ + word] |= bit; });
        }
      }
  }

  const uint64_t* operator()(const Block&, int64_t query) {
    if (!queries_.multi_hot) return masks_.data() + of_query_[query - first_query_] * words_;
    uint64_t* const mask = masks_.data() + 8 * queries_.width * words_;
    std::fill_n(mask, words_, uint64_t{0});
    for_bits(queries_, query, [&](int64_t id) {
      for (int64_t word = 0; word < words_; ++word) mask[word] |= masks_.data()[id * words_ + word];
    });
    return mask;
  }

 private:
  int64_t class_of(int64_t id) const {
    const auto found = std::lower_bound(classes_.begin(), classes_.end(), id);
    return found != classes_.end() && *found == id ? found - classes_.begin() : -1;
  }

  template <class Visit>
  static void for_bits(const Labels& labels, int64_t row, const Visit& visit) {
    for (int64_t byte = 0; byte < labels.width; ++byte)
      for (unsigned bits = labels.bits[row * labels.width + byte]; bits; bits &= bits - 1)
        visit(8 * byte + __builtin_ctz(bits));
  }

  const Labels &queries_, &database_;
  int64_t words_, first_query_ = 0;
  std::vector<int64_t> classes_, of_query_;
  AlignedWords masks_{0};
};

}  // namespace hashfast
