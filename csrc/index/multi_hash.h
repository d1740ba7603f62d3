// Multi-index hashing (Norouzi, Punjani, Fleet: Fast Search in Hamming Space with Multi-Index
// Hashing, CVPR 2012): codes are in a hash table for each of m disjoint substrings of their bits.
// Of m substrings of a code within distance m * w + t of the query, one of the first t + 1 is
// within w, or one of the others within w - 1; so tables are probed in rising distance of the
// substring until as many codes are found as are asked for.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "codes.h"

namespace hashfast::index {

// A value of an entry is its row, or with this bit a group of rows whose codes are equal.
constexpr uint32_t kGroup = uint32_t{1} << 31;
constexpr int64_t kMostTables = 64;

// Entries sorted by a substring of their codes.
struct Table {
  Substring part;
  const uint32_t* limits;  // entries of bucket v: limits[v] .. limits[v + 1], 2^width + 1 of them
  const uint8_t* codes;    // of each entry; null: positions are those of entries of the first table
  const uint32_t* values;  // or positions
};

// Rows of equal codes: group g has rows[limits[g] .. limits[g + 1]], increasing.
struct Groups {
  const uint32_t* limits;
  const uint32_t* rows;
  int64_t n;
};

// A view: whoever makes it keeps the arrays. Entries, limits and groups agree with each other;
// values may be anything, as they come from files.
struct MultiHash {
  int64_t bytes;    // of a code
  int64_t rows;     // codes, the equal ones too
  int64_t entries;  // of each table
  std::vector<Table> tables;
  Groups groups;
};

inline std::invalid_argument damaged(const std::string& what) {
  return std::invalid_argument("the index is damaged: it names a " + what +
                               " that it does not have");
}

struct Request {
  const uint8_t* queries;
  int64_t n;            // queries
  const uint8_t* tail;  // codes of rows behind those in the tables
  int64_t tail_rows;
  const uint8_t* allowed;  // bit 7 - row % 8 of byte row / 8, or null
};

}  // namespace hashfast::index
