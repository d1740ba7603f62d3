// How scans are cut into tasks and blocks.
#include <cstring>

#include "../cpu_level.h"
#include "hamming.h"

namespace hashfast {
namespace {

constexpr int64_t kLeastBlocks = 4;    // a part of fewer blocks is not worth a task
constexpr int64_t kLeastQueries = 16;  // nor are fewer queries
// Parts of the rows each find their own nearest codes, parts of the queries each slice all rows:
// the first costs more in a small database, unless queries are few.
constexpr int64_t kManyRows = int64_t{1} << 20, kManyQueries = 64;
constexpr int64_t kAhead = 12 * 1024;  // bytes between a block and the one fetched meanwhile

uint64_t reverse_bits_of_bytes(uint64_t word) {
  word = (word >> 4 & 0x0F0F0F0F0F0F0F0F) | (word & 0x0F0F0F0F0F0F0F0F) << 4;
  word = (word >> 2 & 0x3333333333333333) | (word & 0x3333333333333333) << 2;
  return (word >> 1 & 0x5555555555555555) | (word & 0x5555555555555555) << 1;
}

}  // namespace

const HammingKernels& hamming_kernels() {
#if HASHFAST_X86
  switch (cpu_level()) {
    case CpuLevel::avx512: return avx512::hamming_kernels;
    case CpuLevel::avx2: return avx2::hamming_kernels;
    case CpuLevel::portable: break;
  }
#endif
  return portable::hamming_kernels;
}

Plan::Plan(int64_t queries, int64_t rows) : queries_(queries), rows_(rows) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t blocks = (rows + hamming_kernels().lanes - 1) / hamming_kernels().lanes;
  const auto split_rows = [&](int64_t most) {
    row_parts = std::clamp<int64_t>(blocks / kLeastBlocks, 1, most);
  };
  const auto split_queries = [&](int64_t least, int64_t most) {
    query_parts = std::clamp<int64_t>(queries / least, 1, most);
  };
  if (rows < kManyRows) {
    split_queries(kManyQueries, threads);
    split_rows(threads / query_parts);
  } else {
    split_rows(threads);
    split_queries(kLeastQueries, threads / row_parts);
  }
}

Part Plan::rows(int64_t task) const {
  const int64_t lanes = hamming_kernels().lanes, part = task % row_parts;
  const int64_t blocks = (rows_ + lanes - 1) / lanes;
  const auto edge = [&](int64_t i) { return std::min(blocks * i / row_parts * lanes, rows_); };
  return {edge(part), edge(part + 1)};
}

Part Plan::queries(int64_t task) const {
  const int64_t part = task / row_parts;
  return {queries_ * part / query_parts, queries_ * (part + 1) / query_parts};
}

Blocks::Blocks(const Codes& database, Part rows, Bitmap allowed, Prepare prepare, int64_t queries)
    : kernels_(hamming_kernels()),
      database_(database),
      rows_(rows),
      allowed_(allowed),
      prepare_(prepare),
      queries_(queries),
      tables_(kernels_.table_words(database.bytes)),
      valid_(kernels_.lanes / 64),
      block_{nullptr,        nullptr,       rows.first - kernels_.lanes,
             database.bytes, valid_.data(), tables_.data()} {}

bool Blocks::next() {
  const int64_t lanes = kernels_.lanes;
  for (;;) {
    block_.first += lanes;
    const int64_t rows = std::min(lanes, rows_.last - block_.first);
    if (rows <= 0) return false;
    if (!fill_valid(rows)) continue;
    block_.codes = database_.row(block_.first);
    const int64_t ahead = std::max(kAhead / (lanes * database_.bytes), int64_t{1}) * lanes;
    const bool more = block_.first + ahead + lanes <= rows_.last;
    block_.upcoming = more ? database_.row(block_.first + ahead) : nullptr;
    if (rows < lanes) {
      padded_.assign(lanes * database_.bytes, 0);
      std::memcpy(padded_.data(), block_.codes, rows * database_.bytes);
      block_.codes = padded_.data();
    }
    prepare_(block_, queries_);
    return true;
  }
}

bool Blocks::fill_valid(int64_t rows) {
  const bool all = !allowed_ && rows == kernels_.lanes;
  if (all && all_valid_) return true;
  all_valid_ = all;
  uint64_t any = 0;
  for (int64_t word = 0; word < kernels_.lanes / 64; ++word) {
    const int64_t here = std::clamp<int64_t>(rows - 64 * word, 0, 64);
    uint64_t bits = here == 64 ? ~uint64_t{0} : (uint64_t{1} << here) - 1;
    if (allowed_ && here) {
      uint64_t mask = 0;
      std::memcpy(&mask, allowed_ + (block_.first + 64 * word) / 8, (here + 7) / 8);
      bits &= reverse_bits_of_bytes(mask);
    }
    valid_.data()[word] = bits;
    any |= bits;
  }
  return any != 0;
}

}  // namespace hashfast
