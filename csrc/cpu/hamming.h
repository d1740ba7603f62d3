// Exact search over packed codes, shared by the operations; the kernels are in hamming_kernels.h.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <memory>
#include <new>
#include <vector>

#include "hamming_kernels.h"

namespace hashfast {

struct Codes {
  const uint8_t* data;
  int64_t rows, bytes;

  explicit Codes(const torch::stable::Tensor& contiguous)
      : data(contiguous.const_data_ptr<uint8_t>()),
        rows(contiguous.size(0)),
        bytes(contiguous.size(1)) {}
  Codes(const uint8_t* first, int64_t n, int64_t width) : data(first), rows(n), bytes(width) {}
  const uint8_t* row(int64_t i) const { return data + i * bytes; }
  int64_t bins() const { return 8 * bytes + 1; }
};

// Rows of a database that count: bit 7 - i % 8 of byte i / 8 (np.packbits); null means all.
using Bitmap = const uint8_t*;

// Finds the k nearest codes of each query. receive(query, write) is called once for each, from any
// thread; write(distances, ids) puts the min(k, codes that count) nearest there, by (distance, id).
using Write = std::function<void(int32_t* distances, int64_t* ids)>;
void nearest(const Codes& queries, const Codes& database, Bitmap allowed, int64_t k,
             const std::function<void(int64_t query, const Write& write)>& receive);
int64_t rows_allowed(Bitmap allowed, int64_t rows);

// The number of codes within the radius of each query.
void count_within(const Codes& queries, const Codes& database, Bitmap allowed, int64_t radius,
                  int64_t* counts);

// These codes, in the order of nearest, from limits[query] on; limits[query + 1] - limits[query] is
// their number, and false is returned if it is not.
bool find_within(const Codes& queries, const Codes& database, Bitmap allowed, int64_t radius,
                 const int64_t* limits, int32_t* distances, int64_t* ids);

// --- what scans are made of ----------------------------------------------------------------------

// Zeroed words at an address that vectors may use.
class AlignedWords {
 public:
  explicit AlignedWords(int64_t words)
      : words_(static_cast<uint64_t*>(std::aligned_alloc(
            kVectorBytes, (8 * words + kVectorBytes) / kVectorBytes * kVectorBytes))) {
    if (!words_) throw std::bad_alloc();
    std::fill_n(words_.get(), words, uint64_t{0});
  }
  uint64_t* data() const { return words_.get(); }

 private:
  struct Free {
    void operator()(uint64_t* p) const { std::free(p); }
  };
  std::unique_ptr<uint64_t, Free> words_;
};

struct Part {
  int64_t first, last;  // rows or queries
};

// Work cut for the threads, into parts of the database and of the queries.
struct Plan {
  Plan(int64_t queries, int64_t rows);
  int64_t row_parts, query_parts;
  Part rows(int64_t task) const;
  Part queries(int64_t task) const;
  int64_t tasks() const { return row_parts * query_parts; }

 private:
  int64_t queries_, rows_;
};

// Cuts the rows of a part into blocks; the last one is padded. Blocks without a valid row are left
// out.
class Blocks {
 public:
  using Prepare = void (*)(const Block& block, int64_t queries);

  // prepare is called with each block, for so many queries to read it.
  Blocks(const Codes& database, Part rows, Bitmap allowed, Prepare prepare, int64_t queries);
  bool next();
  const Block& operator*() const { return block_; }

 private:
  bool fill_valid(int64_t rows);

  const HammingKernels& kernels_;
  Codes database_;
  Part rows_;
  Bitmap allowed_;
  Prepare prepare_;
  int64_t queries_;
  AlignedWords tables_, valid_;
  bool all_valid_ = false;
  std::vector<uint8_t> padded_;
  Block block_;
};

struct EveryRow {
  void start(const Block&) const {}
  const uint64_t* operator()(const Block& block, int64_t) const { return block.valid; }
};

// Counts distances of a part of the queries to the blocks' codes; masks(block, query) gives those
// that count, after masks.start(block).
template <class Masks>
void histogram(const Codes& queries, Part part, Blocks& blocks, Masks masks, int64_t* counts) {
  const HammingKernels& kernels = hamming_kernels();
  const int64_t bytes = queries.bytes, n = part.last - part.first;
  const int64_t words = (kernels.histogram_words(bytes) + 7) / 8 * 8;
  const int64_t stride = kernels.record_words(bytes);
  AlignedWords partial(n * words), records(n * stride);
  const auto flush = [&] {
    for (int64_t i = 0; i < n; ++i)
      kernels.flush(partial.data() + i * words, bytes, counts + i * queries.bins());
  };
  for (int64_t i = 0; i < n; ++i)
    kernels.make_record(queries.row(part.first + i), bytes, records.data() + i * stride);
  for (int64_t held = 0; blocks.next();) {
    masks.start(*blocks);
    for (int64_t i = 0; i < n; ++i)
      kernels.histogram(*blocks, queries.row(part.first + i), records.data() + i * stride,
                        masks(*blocks, part.first + i), partial.data() + i * words);
    if (++held == kHistogramBlocks) {
      flush();
      held = 0;
    }
  }
  flush();
}

}  // namespace hashfast
