// Making the tables of an index.
#pragma once

#include <cstdint>
#include <vector>

#include "multi_hash.h"
#include "pages.h"

namespace hashfast::index {

struct BuiltTable {
  Pages<uint32_t> limits;
  Pages<uint8_t> codes;  // of size 0 where positions are kept
  Pages<uint32_t> values;
};

// What a MultiHash is a view of.
struct Built {
  std::vector<BuiltTable> tables;
  Pages<uint32_t> group_limits, group_rows;
};

// Tables of n codes, whose rows are 0 .. n - 1 < 2^31 - 1.
// collapse: equal codes become one entry. copies: each table has the codes, else only the first.
Built build(const uint8_t* codes, int64_t n, int64_t bytes, const std::vector<Substring>& parts,
            bool collapse, bool copies, int64_t threads);

// Writes the codes of a view in the order of rows, [rows, bytes].
void restore_codes(const MultiHash& index, uint8_t* codes);

}  // namespace hashfast::index
