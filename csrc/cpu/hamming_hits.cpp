// Where in its Hamming ranking a query finds items of its class.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <utility>

#include "../checks.h"
#include "hamming.h"
#include "hamming_labels.h"

namespace hashfast {
namespace {

constexpr const char* kOp = "hamming_hits";
constexpr int64_t kRankAll = 8;  // k > n / kRankAll: rank every code

struct HASHFAST_LOCAL Problem {
  Codes queries, database;
  Labels ours, theirs;
  const int64_t* left_out;  // null, or a row (or -1) for each query
  int64_t k;

  int64_t left_out_of(int64_t query) const { return left_out ? left_out[query] : -1; }
};

// Ranks of one query's hits, out of the codes nearest to it.
void hits_of_nearest(const Problem& problem, int64_t query, const std::vector<int64_t>& ids,
                     std::vector<int32_t>& ranks) {
  const int64_t without = problem.left_out_of(query);
  int32_t rank = 0;
  for (const int64_t id : ids) {
    if (id == without) continue;
    if (++rank > problem.k) break;
    if (problem.ours.share(query, problem.theirs, id)) ranks.push_back(rank);
  }
}

// Ranks of one query's hits in the whole database: every code is given its rank, and those of the
// hits are marked. Four stretches of rows take turns, because a counter that is used for two codes
// in a row waits for itself.
class RankAll {
 public:
  explicit RankAll(const Problem& problem)
      : problem_(problem),
        distances_(problem.database.rows),
        is_hit_(problem.database.rows),
        positions_(kStretches * problem.queries.bins()),
        marks_(problem.database.rows / 64 + 1) {}

  void operator()(int64_t query, std::vector<int32_t>& ranks) {
    const Codes& database = problem_.database;
    const int64_t bins = problem_.queries.bins(), without = problem_.left_out_of(query);
    hamming_kernels().distances(problem_.queries.row(query), database.data, database.rows,
                                database.bytes, distances_.data());
    problem_.ours.share(query, problem_.theirs, is_hit_.data());
    std::fill(positions_.begin(), positions_.end(), 0);
    for_rows([](int64_t, uint32_t& count) { ++count; });
    uint32_t position = 0;
    for (int64_t d = 0; d < bins; ++d)
      for (int64_t stretch = 0; stretch < kStretches; ++stretch)
        position += std::exchange(positions_[stretch * bins + d], position);
    std::fill(marks_.begin(), marks_.end(), 0);
    uint32_t own = ~0u;  // the position that no code should have
    for_rows([&, marks = marks_.data(), is_hit = is_hit_.data()](int64_t row, uint32_t& next) {
      const uint32_t at = next++;
      marks[at / 64] |= uint64_t{is_hit[row]} << (at % 64);
      if (row == without) own = at;
    });
    collect(own, ranks);
  }

 private:
  static constexpr int64_t kStretches = 4;

  // Calls visit(row, counter of its stretch and distance), in row order within a stretch.
  template <class Visit>
  void for_rows(const Visit& visit) {
    const int64_t bins = problem_.queries.bins(), rows = problem_.database.rows;
    const int64_t step = rows / kStretches;
    const uint16_t* const distances = distances_.data();
    uint32_t* const positions = positions_.data();
    for (int64_t i = 0; i < step; ++i)
      for (int64_t stretch = 0; stretch < kStretches; ++stretch) {
        const int64_t row = stretch * step + i;
        visit(row, positions[stretch * bins + distances[row]]);
      }
    for (int64_t row = kStretches * step; row < rows; ++row)
      visit(row, positions[(kStretches - 1) * bins + distances[row]]);
  }

  void collect(uint32_t own, std::vector<int32_t>& ranks) {
    int64_t hits = 0;
    for (const uint64_t marks : marks_) hits += __builtin_popcountll(marks);
    ranks.resize(hits);
    int64_t kept = 0;
    for (int64_t word = 0; word < std::ssize(marks_); ++word)
      for (uint64_t marks = marks_[word]; marks; marks &= marks - 1) {
        const auto at = static_cast<uint32_t>(64 * word + __builtin_ctzll(marks));
        const int64_t rank = int64_t{at} + (at < own);
        if (rank > problem_.k) return ranks.resize(kept);
        if (at != own) ranks[kept++] = static_cast<int32_t>(rank);
      }
    ranks.resize(kept);
  }

  const Problem& problem_;
  std::vector<uint16_t> distances_;
  std::vector<uint8_t> is_hit_;
  std::vector<uint32_t> positions_;
  std::vector<uint64_t> marks_;
};

std::vector<std::vector<int32_t>> find_hits(const Problem& problem) {
  const int64_t q = problem.queries.rows, n = problem.database.rows;
  std::vector<std::vector<int32_t>> ranks(q);
  if (n == 0) return ranks;
  if (problem.k > n / kRankAll) {
    torch::stable::parallel_for(0, q, 1, [&](int64_t begin, int64_t end) {
      RankAll rank_all(problem);
      for (int64_t i = begin; i < end; ++i) rank_all(i, ranks[i]);
    });
    return ranks;
  }
  const int64_t held = std::min(problem.k + (problem.left_out != nullptr), n);
  nearest(problem.queries, problem.database, nullptr, held, [&](int64_t i, const Write& write) {
    std::vector<int32_t> distances(held);
    std::vector<int64_t> ids(held);
    write(distances.data(), ids.data());
    hits_of_nearest(problem, i, ids, ranks[i]);
  });
  return ranks;
}

std::tuple<Tensor, Tensor> hamming_hits(const Tensor& query, const Tensor& database, int64_t k,
                                        const Tensor& query_labels, const Tensor& database_labels,
                                        const std::optional<Tensor>& left_out) {
  check_codes(kOp, query, database);
  STD_TORCH_CHECK(k >= 1, kOp, ": k is ", k, "; it must be at least 1");
  STD_TORCH_CHECK(database.size(0) < int64_t{1} << 31, kOp, ": ", database.size(0),
                  " codes; expected fewer than 2^31");
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  std::optional<Tensor> without;
  if (left_out) {
    STD_TORCH_CHECK(left_out->scalar_type() == ScalarType::Long && left_out->dim() == 1 &&
                        left_out->size(0) == query.size(0),
                    kOp, ": left_out must be int64 [", query.size(0), "]");
    without = torch::stable::contiguous(*left_out);
  }
  const Problem problem{Codes(query_rows),
                        Codes(database_rows),
                        Labels(kOp, query_labels, query.size(0)),
                        Labels(kOp, database_labels, database.size(0)),
                        without ? without->const_data_ptr<int64_t>() : nullptr,
                        std::min(k, std::max<int64_t>(database.size(0), 1))};
  problem.ours.check_like(kOp, problem.theirs);
  const std::vector<std::vector<int32_t>> ranks = find_hits(problem);

  Tensor limits = torch::stable::new_empty(query_rows, {query.size(0) + 1}, ScalarType::Long);
  int64_t* const limit = limits.mutable_data_ptr<int64_t>();
  limit[0] = 0;
  for (int64_t i = 0; i < query.size(0); ++i) limit[i + 1] = limit[i] + std::ssize(ranks[i]);
  Tensor out = torch::stable::new_empty(query_rows, {limit[query.size(0)]}, ScalarType::Int);
  int32_t* const to = out.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < query.size(0); ++i)
    std::copy(ranks[i].begin(), ranks[i].end(), to + limit[i]);
  return {limits, out};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) { m.impl("hamming_hits", TORCH_BOX(&hamming_hits)); }

}  // namespace hashfast
