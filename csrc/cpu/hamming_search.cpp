// Top-k and range search: hits are collected while the threshold falls, then placed by counting.
#include <atomic>
#include <cstring>
#include <numeric>
#include <utility>

#include "hamming_sample.h"
#include "hamming_scan.h"

namespace hashfast {
namespace {

constexpr int64_t kRankAll = 8;     // k > n / kRankAll: rank every code
constexpr int64_t kFewAllowed = 8;  // fewer than n / kFewAllowed rows are searched on their own

// Queries that read a block while it is prepared; in between, as many as keep the hits in cache.
constexpr int64_t kLeastGroup = 64, kMostGroup = 1024;
constexpr int64_t kGroupHits = int64_t{1} << 19;

std::vector<int64_t> numbers(int64_t first, int64_t n) {
  std::vector<int64_t> out(n);
  std::iota(out.begin(), out.end(), first);
  return out;
}

bool is_allowed(Bitmap allowed, int64_t row) {
  return !allowed || (allowed[row / 8] >> (7 - row % 8) & 1);
}

std::vector<int64_t> allowed_rows(Bitmap allowed, int64_t rows, int64_t number) {
  std::vector<int64_t> out;
  out.reserve(number);
  for (int64_t row = 0; row < rows; ++row) {
    if (row % 8 == 0 && !allowed[row / 8])
      row += 7;  // none of these eight
    else if (is_allowed(allowed, row))
      out.push_back(row);
  }
  return out;
}

// Ranks every code of the database: for k that are a good part of it.
void rank_all(const Codes& queries, const Codes& database, Bitmap allowed, int64_t found,
              const std::function<void(int64_t, const Write&)>& receive) {
  torch::stable::parallel_for(0, queries.rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint16_t> of_rows(database.rows);
    std::vector<int64_t> positions(queries.bins());
    for (int64_t q = begin; q < end; ++q) {
      hamming_kernels().distances(queries.row(q), database.data, database.rows, database.bytes,
                                  of_rows.data());
      std::fill(positions.begin(), positions.end(), 0);
      for (int64_t row = 0; row < database.rows; ++row)
        positions[of_rows[row]] += is_allowed(allowed, row);
      int64_t position = 0, cutoff = -1;
      for (int64_t d = 0; d < queries.bins(); ++d) {
        if (position < found) cutoff = d;
        position += std::exchange(positions[d], position);
      }
      receive(q, [&](int32_t* distances, int64_t* ids) {
        for (int64_t row = 0; row < database.rows; ++row) {
          const int64_t distance = of_rows[row];
          if (distance > cutoff || !is_allowed(allowed, row)) continue;
          const int64_t at = positions[distance]++;
          if (at >= found) continue;
          distances[at] = static_cast<int32_t>(distance);
          ids[at] = row;
        }
      });
    }
  });
}

}  // namespace

int64_t rows_allowed(Bitmap allowed, int64_t rows) {
  if (!allowed) return rows;
  int64_t sum = 0;
  for (int64_t byte = 0; byte < rows / 8; ++byte) sum += __builtin_popcount(allowed[byte]);
  if (rows % 8) sum += __builtin_popcount(allowed[rows / 8] >> (8 - rows % 8));
  return sum;
}

void nearest(const Codes& queries, const Codes& database, Bitmap allowed, int64_t k,
             const std::function<void(int64_t, const Write&)>& receive) {
  const int64_t bins = queries.bins(), available = rows_allowed(allowed, database.rows);
  const int64_t found = std::min(k, available);
  if (found == 0) {
    for (int64_t q = 0; q < queries.rows; ++q) receive(q, [](int32_t*, int64_t*) {});
    return;
  }
  if (allowed && available <= database.rows / kFewAllowed) {
    const std::vector<int64_t> rows = allowed_rows(allowed, database.rows, available);
    std::vector<uint8_t> codes(available * database.bytes);
    for (int64_t i = 0; i < available; ++i)
      std::memcpy(codes.data() + i * database.bytes, database.row(rows[i]), database.bytes);
    return nearest(queries, Codes(codes.data(), available, database.bytes), nullptr, found,
                   [&](int64_t q, const Write& write) {
                     receive(q, [&](int32_t* distances, int64_t* ids) {
                       write(distances, ids);
                       for (int64_t i = 0; i < found; ++i) ids[i] = rows[ids[i]];
                     });
                   });
  }
  if (found > available / kRankAll) return rank_all(queries, database, allowed, found, receive);

  const int64_t size = Sample::best_size(database, found, queries.rows);
  std::unique_ptr<Sample> sample;
  if (size) sample = std::make_unique<Sample>(database, allowed, size);
  const int64_t most = std::clamp(kGroupHits / (2 * found), kLeastGroup, kMostGroup);
  for (int64_t first = 0; first < queries.rows; first += most) {
    std::vector<int64_t> chosen = numbers(first, std::min(most, queries.rows - first));
    std::vector<int64_t> thresholds(chosen.size(), bins - 1);
    if (sample)
      sample->thresholds(Codes(queries.row(first), chosen.size(), queries.bytes), found,
                         thresholds.data());
    while (!chosen.empty()) {
      const Scan hits(queries, chosen, thresholds, database, allowed, found, Scan::Mode::find);
      std::vector<uint8_t> missed(chosen.size());
      torch::stable::parallel_for(0, chosen.size(), 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          missed[i] = hits.number(i) < found;
          if (missed[i]) continue;
          receive(chosen[i],
                  [&](int32_t* distances, int64_t* ids) { hits.place(i, found, distances, ids); });
        }
      });
      std::vector<int64_t> again;
      for (int64_t i = 0; i < std::ssize(chosen); ++i)
        if (missed[i]) again.push_back(chosen[i]);
      chosen = again;
      thresholds.assign(chosen.size(), bins - 1);
    }
  }
}

void count_within(const Codes& queries, const Codes& database, Bitmap allowed, int64_t radius,
                  int64_t* counts) {
  std::fill_n(counts, queries.rows, int64_t{0});
  if (radius < 0) return;
  for (int64_t first = 0; first < queries.rows; first += kMostGroup) {
    const std::vector<int64_t> chosen = numbers(first, std::min(kMostGroup, queries.rows - first));
    const std::vector<int64_t> thresholds(chosen.size(), std::min(radius, queries.bins() - 1));
    const Scan hits(queries, chosen, thresholds, database, allowed, kUnlimited, Scan::Mode::count);
    for (int64_t i = 0; i < std::ssize(chosen); ++i) counts[chosen[i]] = hits.number(i);
  }
}

bool find_within(const Codes& queries, const Codes& database, Bitmap allowed, int64_t radius,
                 const int64_t* limits, int32_t* distances, int64_t* ids) {
  std::atomic<bool> right{true};
  for (int64_t first = 0, last = 0; first < queries.rows; first = last) {
    // Hits are held until they are placed: as many queries as do not have too many.
    for (last = first + 1; last < queries.rows && last - first < kMostGroup &&
                           limits[last + 1] - limits[first] <= kGroupHits;)
      ++last;
    if (radius < 0) {
      if (limits[last] != limits[first]) right = false;
      continue;
    }
    const std::vector<int64_t> chosen = numbers(first, last - first);
    const std::vector<int64_t> thresholds(chosen.size(), std::min(radius, queries.bins() - 1));
    const Scan hits(queries, chosen, thresholds, database, allowed, kUnlimited, Scan::Mode::find);
    torch::stable::parallel_for(0, std::ssize(chosen), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = limits[chosen[i]], room = limits[chosen[i] + 1] - at;
        if (hits.number(i) != room) right = false;
        hits.place(i, room, distances + at, ids + at);
      }
    });
  }
  return right;
}

}  // namespace hashfast
