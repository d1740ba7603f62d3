// The search of one query, compiled once for each instruction set.
#pragma once

#include "hits.h"
#include "multi_hash.h"

namespace hashfast::index {

// For one instruction set.
struct Probes {
  void (*nearest)(const MultiHash&, const Request&, const uint8_t* query, Nearest&);
  void (*within)(const MultiHash&, const Request&, const uint8_t* query, Within&);
};

namespace portable {
extern const Probes probes;
}
namespace avx2 {
extern const Probes probes;
}
namespace avx512 {
extern const Probes probes;
}

// What a search costs, in nanoseconds, to compare the next step with a scan of everything: a bucket
// and a code that have to be fetched from memory, and a code of so many bytes read in sequence.
constexpr double kBucketCost = 25, kFetchCost = 15;
HASHFAST_INLINE double read_cost(int64_t bytes) { return 0.1 + 0.13 * static_cast<double>(bytes); }

// How many numbers of so many bits have so many set.
HASHFAST_INLINE double masks_of(int64_t width, int64_t weight) {
  double count = 1;
  for (int64_t i = 0; i < weight; ++i)
    count = count * static_cast<double>(width - i) / static_cast<double>(i + 1);
  return count;
}

// Buckets are visited some at a time: while the codes of one batch are compared, those of the next
// and the limits of the one after are on their way from memory.
constexpr int64_t kBatch = 32;
constexpr int64_t kAhead = 8;              // codes fetched ahead by position
constexpr int64_t kPending = 16;           // hits whose values are fetched together
constexpr int64_t kLine = 64, kLines = 4;  // of a bucket; the CPU itself fetches what follows

template <class Simd, int64_t Bytes, class Hits>
class Probe {
 public:
  Probe(const MultiHash& index, const Request& request, const uint8_t* query, Hits& hits)
      : index_(index), request_(request), query_(query), hits_(hits) {
    for (const Table& table : index.tables) {
      const uint32_t value = table.part.template of<Bytes>(query, index.bytes);
      __builtin_prefetch(table.limits + value);
      homes_[num_tables_++] = {&table, value, {}};
    }
    for (int64_t t = 0; t < num_tables_; ++t) {
      homes_[t].run = bucket(*homes_[t].table, homes_[t].value);
      fetch(*homes_[t].table, homes_[t].run);
    }
    // Any order of the tables will do; where the query is unlike its neighbours there is least to
    // compare.
    std::sort(homes_, homes_ + num_tables_,
              [](const Home& a, const Home& b) { return a.run.size() < b.run.size(); });
  }

  void run() {
    if (hits_.complete(-1)) return;
    Simd::template scan<Bytes>(request_.tail, request_.tail_rows, query_, index_.bytes, hits_,
                               [&](int64_t i, int64_t distance) {
                                 add(distance, static_cast<uint32_t>(index_.rows + i));
                               });
    if (!index_.entries) return;
    const double scan_cost = static_cast<double>(index_.entries) * read_cost(index_.bytes);
    for (int64_t weight = 0;; ++weight)
      for (int64_t t = 0; t < num_tables_; ++t) {
        const Table& table = *homes_[t].table;
        if (step_cost(table, weight) > scan_cost) return scan_unseen(t, weight);
        visit(t, weight);
        // Every bucket of this table has been visited, or every code that may matter.
        if (weight == table.part.width() || hits_.complete(num_tables_ * weight + t)) return;
      }
  }

 private:
  struct Run {
    uint32_t first, last;
    int64_t size() const { return last - first; }
  };

  // The query's own bucket in a table.
  struct Home {
    const Table* table;
    uint32_t value;
    Run run;
  };

  // Found, but it is not known yet whether before: its value is on its way from memory.
  struct Pending {
    int64_t entry, distance;
  };

  static Run bucket(const Table& table, uint32_t value) {
    return {table.limits[value], table.limits[value + 1]};
  }

  HASHFAST_INLINE void fetch(const Table& table, Run run) const {
    if (!table.codes) {
      __builtin_prefetch(table.values + run.first);
      return;
    }
    const uint8_t* const codes = table.codes + run.first * index_.bytes;
    const int64_t size = run.size() * index_.bytes;
    for (int64_t line = 0; line < kLines * kLine && line < size - 1; line += kLine)
      __builtin_prefetch(codes + line);
    __builtin_prefetch(codes + std::min(size, kLines * kLine) - 1);
  }

  // Fetches the code at a position of the first table.
  HASHFAST_INLINE void fetch(uint32_t position) const {
    __builtin_prefetch(index_.tables.front().codes + position * index_.bytes);
  }

  double step_cost(const Table& table, int64_t weight) const {
    const double filled = static_cast<double>(index_.entries) /
                          static_cast<double>(uint64_t{1} << table.part.width());
    const double each = table.codes ? read_cost(index_.bytes) : kFetchCost;
    return masks_of(table.part.width(), weight) * (kBucketCost + filled * each);
  }

  // Whether a code was in a bucket before those of this weight in the t-th table.
  HASHFAST_INLINE bool seen(const uint8_t* code, int64_t t, int64_t weight) const {
    for (int64_t other = 0; other < num_tables_; ++other) {
      const Home& home = homes_[other];
      const uint32_t value = home.table->part.template of<Bytes>(code, index_.bytes);
      if (__builtin_popcount(value ^ home.value) < weight + (other < t)) return true;
    }
    return false;
  }

  bool allowed(uint32_t row) const {
    return !request_.allowed || (request_.allowed[row / 8] >> (7 - row % 8) & 1);
  }

  bool add(int64_t distance, uint32_t row) { return !allowed(row) || hits_.add(distance, row); }

  void add_entry(int64_t distance, uint32_t value) {
    if (!(value & kGroup)) {
      if (value >= index_.rows) throw damaged("row");
      add(distance, value);
      return;
    }
    const int64_t group = value & ~kGroup;
    if (group >= index_.groups.n) throw damaged("group of rows");
    int64_t left = hits_.most();
    for (uint32_t i = index_.groups.limits[group]; left && i < index_.groups.limits[group + 1];
         ++i) {
      const uint32_t row = index_.groups.rows[i];
      if (row >= index_.rows) throw damaged("row");
      if (!allowed(row)) continue;
      if (!hits_.add(distance, row)) return;
      --left;
    }
  }

  // Adds the codes of some entries that were not seen before this step.
  HASHFAST_INLINE void compare(const Table& table, Run run, int64_t t, int64_t weight) {
    const int64_t bytes = Bytes ? Bytes : index_.bytes;
    const uint32_t* const values = table.values + run.first;
    if (table.codes) {
      const uint8_t* const codes = table.codes + run.first * bytes;
      Pending pending[kPending];
      int64_t n = 0;
      const auto settle = [&] {
        for (int64_t i = 0; i < n; ++i)
          if (!seen(codes + pending[i].entry * bytes, t, weight))
            add_entry(pending[i].distance, values[pending[i].entry]);
        n = 0;
      };
      Simd::template scan<Bytes>(codes, run.size(), query_, bytes, hits_,
                                 [&](int64_t i, int64_t distance) {
                                   __builtin_prefetch(values + i);
                                   pending[n++] = {i, distance};
                                   if (n == kPending) settle();
                                 });
      settle();
      return;
    }
    const Table& first = index_.tables.front();
    for (int64_t i = 0; i < run.size(); ++i) {
      if (i + kAhead < run.size()) fetch(values[i + kAhead]);
      const uint8_t* const code = first.codes + position(values[i]) * bytes;
      const int64_t apart = distance<Bytes>(code, query_, bytes);
      if (apart <= hits_.threshold() && !seen(code, t, weight))
        add_entry(apart, first.values[values[i]]);
    }
  }

  int64_t position(uint32_t value) const {
    if (value >= index_.entries) throw damaged("code");
    return value;
  }

  // Looks into the buckets of a table whose values differ from the query's in `weight` bits.
  void visit(int64_t t, int64_t weight) {
    const Table& table = *homes_[t].table;
    const int64_t width = table.part.width();
    if (weight > width) return;
    const uint64_t end = uint64_t{1} << width;
    uint64_t mask = (uint64_t{1} << weight) - 1;
    uint32_t buckets[kBatch];
    Run fetched[kBatch], ready[kBatch];
    int64_t num_buckets = 0, num_fetched = 0, num_ready = 0;
    do {
      num_ready = num_fetched;
      std::copy_n(fetched, num_fetched, ready);

      num_fetched = 0;
      for (int64_t i = 0; i < num_buckets; ++i) {
        const Run run = bucket(table, buckets[i]);
        if (!run.size()) continue;
        fetch(table, run);
        fetched[num_fetched++] = run;
      }

      num_buckets = 0;
      for (; mask < end && num_buckets < kBatch; ++num_buckets) {
        buckets[num_buckets] = homes_[t].value ^ static_cast<uint32_t>(mask);
        __builtin_prefetch(table.limits + buckets[num_buckets]);
        mask = weight ? next_mask(mask) : end;
      }

      if (!table.codes)
        for (int64_t i = 0; i < num_ready; ++i)
          for (int64_t j = 0; j < std::min(ready[i].size(), kAhead); ++j)
            fetch(table.values[ready[i].first + j]);
      for (int64_t i = 0; i < num_ready; ++i) compare(table, ready[i], t, weight);
    } while (num_buckets || num_fetched);
  }

  // The next larger number with as many bits set.
  static HASHFAST_INLINE uint64_t next_mask(uint64_t mask) {
    const uint64_t lowest = mask & -mask, carried = mask + lowest;
    return carried | ((mask ^ carried) >> 2) >> __builtin_ctzll(mask);
  }

  // Compares the codes that were in no bucket before those of this weight in the t-th table.
  void scan_unseen(int64_t t, int64_t weight) {
    compare(index_.tables.front(), {0, static_cast<uint32_t>(index_.entries)}, t, weight);
  }

  const MultiHash& index_;
  const Request& request_;
  const uint8_t* const query_;
  Hits& hits_;
  Home homes_[kMostTables];  // of each table, in the order in which they are visited
  int64_t num_tables_ = 0;
};

template <class Simd, class Hits>
void probe(const MultiHash& index, const Request& request, const uint8_t* query, Hits& hits) {
  for_width(index.bytes,
            [&]<int64_t Bytes>() { Probe<Simd, Bytes, Hits>(index, request, query, hits).run(); });
}

// Compares code by code.
struct Plain {
  template <int64_t Bytes, class Hits, class Found>
  static HASHFAST_INLINE void scan(const uint8_t* codes, int64_t n, const uint8_t* query,
                                   int64_t bytes, const Hits& hits, Found&& found) {
    const int64_t size = Bytes ? Bytes : bytes;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t apart = distance<Bytes>(codes + i * size, query, size);
      if (apart <= hits.threshold()) [[unlikely]]
        found(i, apart);
    }
  }
};

}  // namespace hashfast::index
