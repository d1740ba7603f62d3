// Scans a database for the hits of queries: in parts, one after the other or side by side.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "hamming.h"

namespace hashfast {

// So many hits are wanted that no threshold needs to fall.
constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// Queries with the hits they have in one part of the database.
class Searches {
 public:
  // Of the n chosen queries, with a threshold each.
  Searches(const Codes& queries, const int64_t* chosen, const int64_t* thresholds, int64_t n,
           int64_t wanted);
  Searches(const Searches&) = delete;
  Searches& operator=(const Searches&) = delete;
  ~Searches();

  Search* data() { return searches_.data(); }
  const Search& operator[](int64_t i) const { return searches_[i]; }
  int64_t size() const { return std::ssize(searches_); }

 private:
  std::vector<Search> searches_;
  AlignedWords records_;
  std::vector<uint64_t> words_;
};

// Hits of the chosen queries in every part of the database.
class Scan {
 public:
  enum class Mode { find, count };

  // Finds at least `wanted` hits of each query if there are so many within its threshold, among
  // them the nearest ones; with kUnlimited all of them. Mode::count only counts them.
  Scan(const Codes& queries, const std::vector<int64_t>& chosen,
       const std::vector<int64_t>& thresholds, const Codes& database, Bitmap allowed,
       int64_t wanted, Mode mode);

  // The number of hits of the i-th chosen query.
  int64_t number(int64_t i) const;

  // The first `room` hits of the i-th chosen query, by (distance, row).
  void place(int64_t i, int64_t room, int32_t* distances, int64_t* ids) const;

 private:
  // Calls visit(search) for each part of a query, in row order.
  template <class Visit>
  void for_parts(int64_t i, const Visit& visit) const;

  int64_t bins_;
  Plan plan_;
  std::vector<std::unique_ptr<Searches>> parts_;
};

}  // namespace hashfast
