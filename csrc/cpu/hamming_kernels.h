// The parts of the Hamming scan that are compiled once for each instruction set. What lies behind
// this interface must not use library templates: the linker could keep the copy of one instruction
// set for all.
#pragma once

#include <cstdint>

namespace hashfast {

// Largest vector of any instruction set, in bytes; tables and masks are aligned to it.
constexpr int64_t kVectorBytes = 64;

// The state of one query in one part of the database.
struct Search {
  const uint8_t* code;
  const uint64_t* words;  // the same in whole words, zeros after its end
  uint64_t* record;       // what the sliced kernels read of it; those of one scan lie side by side
  int64_t bytes;          // bytes per code
  int64_t threshold;      // largest distance still wanted; -1: nothing any more
  int64_t wanted;         // hits that are enough
  int64_t within;         // hits so far at distances <= threshold
  uint64_t* hits;         // distance << kRowBits | row, in row order
  int64_t size, room;     // hits held, and those that fit
};

constexpr int kRowBits = 40;
constexpr uint64_t kRowMask = (uint64_t{1} << kRowBits) - 1;

// Called by the kernels, defined once: room for so many more hits, and a threshold lowered because
// the hits within it are enough.
void make_room(Search& search, int64_t hits);
void tighten(Search& search);

// A block of consecutive codes.
struct Block {
  const uint8_t* codes;     // [lanes] codes; what follows the last one of a database are zeros
  const uint8_t* upcoming;  // [lanes] codes to fetch into cache meanwhile, or null
  int64_t first;            // its row number
  int64_t bytes;            // bytes per code
  uint64_t* valid;          // [lanes / 64] rows that count
  uint64_t* tables;         // [table_words(bytes)]: what slice or arrange made of the codes
};

struct HammingKernels {
  int64_t lanes;  // codes a block
  // 64-bit words of the tables of a block, and of a query's record.
  int64_t (*table_words)(int64_t bytes);
  int64_t (*record_words)(int64_t bytes);
  void (*make_record)(const uint8_t* code, int64_t bytes, uint64_t* record);
  void (*set_threshold)(uint64_t* record, int64_t bytes, int64_t threshold);
  // Fills block.tables for `queries` queries to read.
  void (*slice)(const Block& block, int64_t queries);
  // Adds the block's hits to each search.
  void (*find)(const Block& block, Search* searches, int64_t n);
  // Adds the number of the block's hits to each search's size, and touches nothing else.
  void (*count)(const Block& block, Search* searches, int64_t n);
  // Adds the block's codes in `mask` to the histogram of one query, [histogram_words(bytes)]; flush
  // adds it to counts[bins] and clears it, at least once in kHistogramBlocks blocks. Blocks are
  // prepared by slice_for_histogram; histogram_cost is that of a code, where a hit kept costs 1.
  void (*histogram)(const Block& block, const uint8_t* code, const uint64_t* record,
                    const uint64_t* mask, uint64_t* histogram);
  double (*histogram_cost)(int64_t bytes);
  void (*slice_for_histogram)(const Block& block, int64_t queries);
  int64_t (*histogram_words)(int64_t bytes);
  void (*flush)(uint64_t* histogram, int64_t bytes, int64_t* counts);
  // Distances of one query to n consecutive codes.
  void (*distances)(const uint8_t* code, const uint8_t* codes, int64_t n, int64_t bytes,
                    uint16_t* out);
  // find and count by another way, after arrange instead of slice: the faster one for so many
  // queries and expected hits of a query in a block.
  struct Direct {
    bool (*is_faster)(int64_t bytes, int64_t queries, double hits);
    void (*arrange)(const Block& block, int64_t queries);
    void (*find)(const Block& block, Search* searches, int64_t n);
    void (*count)(const Block& block, Search* searches, int64_t n);
  } direct;
};

constexpr int64_t kHistogramBlocks = 512;

// For the CPU at hand; see cpu_level.h.
const HammingKernels& hamming_kernels();

namespace portable {
extern const HammingKernels hamming_kernels;
}
namespace avx2 {
extern const HammingKernels hamming_kernels;
}
namespace avx512 {
extern const HammingKernels hamming_kernels;
}

}  // namespace hashfast
