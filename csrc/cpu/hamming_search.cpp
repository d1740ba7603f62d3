// Top-k and range search: hits are collected while the threshold falls, then placed by counting.
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "hamming.h"

namespace hashfast {
namespace {

constexpr int32_t kPaddingDistance = 2147483647;
constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
constexpr int64_t kGroup = 1024;               // most queries that read a block while it is sliced
constexpr int64_t kGroupBytes = int64_t{1} << 27;  // and the memory of their states
constexpr int64_t kSlack = 1024;               // hits beyond 2 k that a search may hold
constexpr int64_t kLeastSampled = 16;          // queries for which sampling pays
constexpr int64_t kDense = 8;                  // k >= n / kDense: rank everything

int64_t distance_of(uint64_t hit) { return static_cast<int64_t>(hit >> kRowBits); }

void count_hits(const Search& search, int64_t* counts) {
  for (int64_t i = 0; i < search.size; ++i) ++counts[distance_of(search.hits[i])];
}

// Queries with the hits they have in one part of the database.
class Searches {
 public:
  Searches(const Codes& queries, const int64_t* chosen, const int64_t* thresholds, int64_t n,
           int64_t wanted)
      : searches_(n),
        records_(n * hamming_kernels().record_words(queries.bytes)),
        words_(n * ((queries.bytes + 7) / 8)) {
    const HammingKernels& kernels = hamming_kernels();
    const int64_t stride = kernels.record_words(queries.bytes);
    for (int64_t i = 0; i < n; ++i) {
      Search& search = searches_[i];
      search.code = queries.row(chosen[i]);
      search.words = words_.data() + i * ((queries.bytes + 7) / 8);
      search.record = records_.data() + i * stride;
      search.bytes = queries.bytes;
      search.threshold = thresholds[i];
      search.wanted = wanted;
      std::memcpy(words_.data() + i * ((queries.bytes + 7) / 8), search.code, queries.bytes);
      kernels.make_record(search.code, queries.bytes, search.record);
      kernels.set_threshold(search.record, queries.bytes, search.threshold);
    }
  }
  Searches(const Searches&) = delete;
  ~Searches() {
    for (const Search& search : searches_) std::free(search.hits);
  }
  Search* data() { return searches_.data(); }
  Search& operator[](int64_t i) { return searches_[i]; }
  int64_t size() const { return searches_.size(); }

 private:
  std::vector<Search> searches_;
  AlignedWords records_;
  std::vector<uint64_t> words_;
};

// The hits of a search in consecutive chains, each with its own counters: hits lie at few
// distances, and one counter would wait for itself at every hit.
constexpr int64_t kChains = 4;

class Chains {
 public:
  Chains(const Search& search, int64_t bins) : search_(search), bins_(bins), counters_(kChains * bins) {
    for_hits([](uint64_t, int64_t& count) { ++count; });
  }
  int64_t& at(int64_t chain, int64_t distance) { return counters_[chain * bins_ + distance]; }

  // Calls visit(hit, counter of its chain and distance), in row order within a chain.
  template <class Visit>
  void for_hits(const Visit& visit) {
    const int64_t length = search_.size / kChains;
    const auto one = [&](int64_t chain, int64_t i) {
      visit(search_.hits[i], at(chain, distance_of(search_.hits[i])));
    };
    for (int64_t i = 0; i < length; ++i)
      for (int64_t chain = 0; chain < kChains; ++chain) one(chain, chain * length + i);
    for (int64_t i = kChains * length; i < search_.size; ++i) one(kChains - 1, i);
  }

 private:
  const Search& search_;
  int64_t bins_;
  std::vector<int64_t> counters_;
};

bool is_direct(int64_t bytes, int64_t queries, int64_t rows, int64_t wanted) {
  const HammingKernels& kernels = hamming_kernels();
  if (!kernels.direct.find) return false;
  const double hits = wanted == kUnlimited ? 0 : 2.0 * wanted * kernels.lanes / rows;
  return kernels.direct.is_faster(bytes, queries, hits);
}

// Hits of the chosen queries in every part: parts of one query are in row order.
class Hits {
 public:
  enum class Mode { find, count };

  Hits(const Codes& queries, const std::vector<int64_t>& chosen,
       const std::vector<int64_t>& thresholds, const Codes& database, Bitmap allowed,
       int64_t wanted, Mode mode)
      : plan_(chosen.size(), database.rows), parts_(plan_.tasks()) {
    const HammingKernels& kernels = hamming_kernels();
    const bool direct = is_direct(queries.bytes, chosen.size(), database.rows, wanted);
    const auto kernel = mode == Mode::find ? (direct ? kernels.direct.find : kernels.find)
                                           : (direct ? kernels.direct.count : kernels.count);
    torch::stable::parallel_for(0, plan_.tasks(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const Part mine = plan_.queries(task);
        parts_[task] =
            std::make_unique<Searches>(queries, chosen.data() + mine.first,
                                       thresholds.data() + mine.first, mine.last - mine.first, wanted);
        Searches& searches = *parts_[task];
        Blocks blocks(database, plan_.rows(task), allowed,
                      direct ? kernels.direct.arrange : kernels.slice, searches.size());
        while (blocks.next()) kernel(*blocks, searches.data(), searches.size());
      }
    });
  }

  // Calls visit(search) for each part of the i-th chosen query, in row order.
  template <class Visit>
  void for_parts(int64_t i, const Visit& visit) const {
    for (int64_t part = 0; part < plan_.query_parts; ++part) {
      const Part mine = plan_.queries(part * plan_.row_parts);
      if (i < mine.first || i >= mine.last) continue;
      for (int64_t row_part = 0; row_part < plan_.row_parts; ++row_part)
        visit((*parts_[part * plan_.row_parts + row_part])[i - mine.first]);
    }
  }

  int64_t number(int64_t i) const {
    int64_t sum = 0;
    for_parts(i, [&](const Search& search) { sum += search.size; });
    return sum;
  }

  // The first `room` hits of the i-th chosen query, by (distance, row).
  void place(int64_t i, int64_t bins, int64_t room, int32_t* distances, int64_t* ids) const {
    std::vector<Chains> parts;
    for_parts(i, [&](const Search& search) { parts.emplace_back(search, bins); });
    int64_t position = 0;
    for (int64_t d = 0; d < bins; ++d)
      for (Chains& part : parts)
        for (int64_t chain = 0; chain < kChains; ++chain)
          position += std::exchange(part.at(chain, d), position);
    for (Chains& part : parts)
      part.for_hits([&](uint64_t hit, int64_t& next) {
        const int64_t at = next++;
        if (at >= room) return;
        distances[at] = static_cast<int32_t>(distance_of(hit));
        ids[at] = static_cast<int64_t>(hit & kRowMask);
      });
  }

 private:
  Plan plan_;
  std::vector<std::unique_ptr<Searches>> parts_;
};

// Rows spread over the database, eight at a time, from which the distance of the k-th nearest is
// estimated.
class Sample {
 public:
  Sample(const Codes& database, Bitmap allowed, int64_t size) : bytes_(database.bytes) {
    constexpr int64_t kRun = 8;
    const int64_t runs = size / kRun;
    const int64_t all = database.rows / kRun;
    codes_.resize(runs * kRun * bytes_);
    if (allowed) allowed_.resize(runs);
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t from = all * run / runs;
      std::memcpy(codes_.data() + run * kRun * bytes_, database.row(kRun * from), kRun * bytes_);
      if (allowed) allowed_[run] = allowed[from];
    }
  }

  // For each query the distance within which the sample has `least` codes; the largest there is if
  // it has fewer.
  void thresholds(const Codes& queries, int64_t least, int64_t* out) const {
    const Codes codes(codes_.data(), codes_.size() / bytes_, bytes_);
    const int64_t bins = queries.bins();
    torch::stable::parallel_for(0, queries.rows, 64, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> counts((end - begin) * bins, 0);
      Blocks blocks(codes, {0, codes.rows}, allowed_.empty() ? nullptr : allowed_.data(),
                    hamming_kernels().slice, end - begin);
      histogram(queries, {begin, end}, blocks, EveryRow{}, counts.data());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t* of_query = counts.data() + (i - begin) * bins;
        int64_t distance = 0;
        for (int64_t sum = of_query[0]; sum < least && distance < bins - 1;)
          sum += of_query[++distance];
        out[i] = distance;
      }
    });
  }

  // How many codes of the sample should be nearer than the threshold, so that the database has
  // `wanted`: four deviations beyond the mean, rarely too few, and then the search is repeated.
  static int64_t least(int64_t size, int64_t rows, int64_t wanted) {
    const double mean = static_cast<double>(wanted) * size / rows;
    return static_cast<int64_t>(std::ceil(mean + 4 * std::sqrt(mean) + 4));
  }

  // Codes to take of a database, 0 if none: to count a code costs less than a hundredth of what it
  // costs to keep one that is not wanted.
  static int64_t best_size(int64_t rows, int64_t wanted) {
    int64_t best = 0;
    double cost = static_cast<double>(wanted) * 16;
    for (int64_t size = 4096; size <= rows / 8; size *= 2) {
      const double kept = static_cast<double>(least(size, rows, wanted)) * rows / size;
      if (kept + size / 100.0 < cost) {
        cost = kept + size / 100.0;
        best = size;
      }
    }
    return best;
  }

 private:
  int64_t bytes_;
  std::vector<uint8_t> codes_, allowed_;
};

int64_t group_of(const Codes& queries, int64_t wanted) {
  const int64_t room = wanted == kUnlimited ? kSlack : 2 * wanted + kSlack;
  const int64_t each = 8 * (room + hamming_kernels().record_words(queries.bytes));
  return std::clamp<int64_t>(kGroupBytes / (each * torch::stable::get_num_threads()), 16, kGroup);
}

int64_t rows_allowed(Bitmap allowed, int64_t rows) {
  if (!allowed) return rows;
  int64_t sum = 0;
  for (int64_t byte = 0; byte < rows / 8; ++byte) sum += __builtin_popcount(allowed[byte]);
  if (rows % 8) sum += __builtin_popcount(allowed[rows / 8] >> (8 - rows % 8));
  return sum;
}

bool is_allowed(Bitmap allowed, int64_t row) {
  return !allowed || (allowed[row / 8] >> (7 - row % 8) & 1);
}

// Ranks every code of the database: for k that are a good part of it.
void rank_all(const Codes& queries, const Codes& database, Bitmap allowed, int64_t k, int64_t found,
              int32_t* distances, int64_t* ids) {
  const DistanceKernel kernel = distance_kernel(queries.bytes);
  torch::stable::parallel_for(0, queries.rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint16_t> of_rows(database.rows);
    std::vector<int64_t> positions(queries.bins());
    for (int64_t q = begin; q < end; ++q) {
      kernel(queries.row(q), database.data, database.rows, database.bytes, of_rows.data());
      std::fill(positions.begin(), positions.end(), 0);
      for (int64_t row = 0; row < database.rows; ++row)
        positions[of_rows[row]] += is_allowed(allowed, row);
      int64_t position = 0, cutoff = -1;
      for (int64_t d = 0; d < queries.bins(); ++d) {
        if (position < found) cutoff = d;
        position += std::exchange(positions[d], position);
      }
      for (int64_t row = 0; row < database.rows; ++row) {
        const int64_t distance = of_rows[row];
        if (distance > cutoff || !is_allowed(allowed, row)) continue;
        const int64_t at = positions[distance]++;
        if (at >= found) continue;
        distances[q * k + at] = static_cast<int32_t>(distance);
        ids[q * k + at] = row;
      }
    }
  });
}

}  // namespace

void make_room(Search& search, int64_t hits) {
  const int64_t room = std::max(search.size + hits, 2 * search.room);
  auto* const moved = static_cast<uint64_t*>(std::realloc(search.hits, 8 * room));
  if (!moved) throw std::bad_alloc();
  search.hits = moved;
  search.room = room;
}

void tighten(Search& search) {
  std::vector<int64_t> counts(8 * search.bytes + 1);
  count_hits(search, counts.data());
  // The last hit that is wanted is at this distance: later ones must be nearer.
  int64_t cutoff = 0, nearer = 0;
  while (nearer + counts[cutoff] < search.wanted) nearer += counts[cutoff++];
  if (search.size >= 2 * search.wanted) {
    int64_t at_cutoff = search.wanted - nearer, kept = 0;
    for (int64_t i = 0; i < search.size; ++i) {
      const int64_t distance = distance_of(search.hits[i]);
      if (distance > cutoff || (distance == cutoff && at_cutoff-- <= 0)) continue;
      search.hits[kept++] = search.hits[i];
    }
    search.size = kept;
  }
  search.threshold = cutoff - 1;
  search.within = nearer;
  hamming_kernels().set_threshold(search.record, search.bytes, search.threshold);
}

void nearest(const Codes& queries, const Codes& database, Bitmap allowed, int64_t k,
             int32_t* distances, int64_t* ids) {
  const int64_t bins = queries.bins(), available = rows_allowed(allowed, database.rows);
  const int64_t found = std::min(k, available);
  for (int64_t q = 0; q < queries.rows; ++q) {
    std::fill(distances + q * k + found, distances + (q + 1) * k, kPaddingDistance);
    std::fill(ids + q * k + found, ids + (q + 1) * k, int64_t{-1});
  }
  if (found == 0) return;
  if (found > available / kDense)
    return rank_all(queries, database, allowed, k, found, distances, ids);

  const int64_t size =
      queries.rows >= kLeastSampled ? Sample::best_size(database.rows, found) : 0;
  std::unique_ptr<Sample> sample;
  if (size) sample = std::make_unique<Sample>(database, allowed, size);
  const int64_t most = group_of(queries, found);
  for (int64_t first = 0; first < queries.rows; first += most) {
    std::vector<int64_t> chosen(std::min(most, queries.rows - first));
    for (int64_t i = 0; i < std::ssize(chosen); ++i) chosen[i] = first + i;
    std::vector<int64_t> thresholds(chosen.size(), bins - 1);
    if (sample)
      sample->thresholds(Codes(queries.row(first), chosen.size(), queries.bytes),
                         Sample::least(size, database.rows, found), thresholds.data());
    while (!chosen.empty()) {
      const Hits hits(queries, chosen, thresholds, database, allowed, found,
                      Hits::Mode::find);
      std::vector<uint8_t> missed(chosen.size());
      torch::stable::parallel_for(0, chosen.size(), 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          missed[i] = hits.number(i) < found;
          if (!missed[i])
            hits.place(i, bins, found, distances + chosen[i] * k, ids + chosen[i] * k);
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

namespace {

template <class Visit>
void for_groups_within(const Codes& queries, const Codes& database, Bitmap allowed, int64_t radius,
                       Hits::Mode mode, const Visit& visit) {
  if (radius < 0 || database.rows == 0) return;
  const int64_t most = group_of(queries, kUnlimited);
  for (int64_t first = 0; first < queries.rows; first += most) {
    std::vector<int64_t> chosen(std::min(most, queries.rows - first));
    for (int64_t i = 0; i < std::ssize(chosen); ++i) chosen[i] = first + i;
    const std::vector<int64_t> thresholds(chosen.size(), std::min(radius, queries.bins() - 1));
    visit(Hits(queries, chosen, thresholds, database, allowed, kUnlimited, mode), first,
          std::ssize(chosen));
  }
}

}  // namespace

void count_within(const Codes& queries, const Codes& database, Bitmap allowed, int64_t radius,
                  int64_t* counts) {
  std::fill_n(counts, queries.rows, int64_t{0});
  for_groups_within(queries, database, allowed, radius, Hits::Mode::count,
                    [&](const Hits& hits, int64_t first, int64_t n) {
                      for (int64_t i = 0; i < n; ++i) counts[first + i] = hits.number(i);
                    });
}

bool find_within(const Codes& queries, const Codes& database, Bitmap allowed, int64_t radius,
                 const int64_t* limits, int32_t* distances, int64_t* ids) {
  std::atomic<bool> right{limits[queries.rows] == 0 || (radius >= 0 && database.rows > 0)};
  for_groups_within(queries, database, allowed, radius, Hits::Mode::find,
                    [&](const Hits& hits, int64_t first, int64_t n) {
                      torch::stable::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
                        for (int64_t i = begin; i < end; ++i) {
                          const int64_t at = limits[first + i];
                          const int64_t room = limits[first + i + 1] - at;
                          if (hits.number(i) != room) right = false;
                          hits.place(i, queries.bins(), room, distances + at, ids + at);
                        }
                      });
                    });
  return right;
}

}  // namespace hashfast
