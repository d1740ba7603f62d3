#include "hamming_scan.h"

#include <cstring>
#include <utility>

namespace hashfast {
namespace {

int64_t distance_of(uint64_t hit) { return static_cast<int64_t>(hit >> kRowBits); }

void count_hits(const Search& search, int64_t* counts) {
  for (int64_t i = 0; i < search.size; ++i) ++counts[distance_of(search.hits[i])];
}

// The hits of a search in consecutive chains, each with its own counters: hits lie at few
// distances, and one counter would wait for itself at every hit.
constexpr int64_t kChains = 4;

class Chains {
 public:
  Chains(const Search& search, int64_t bins)
      : search_(search), bins_(bins), counters_(kChains * bins) {
    for_hits([](uint64_t, int64_t& count) { ++count; });
  }
  int64_t& at(int64_t chain, int64_t distance) { return counters_[chain * bins_ + distance]; }

  // Calls visit(hit, counter of its chain and distance), in row order within a chain.
  template <class Visit>
  void for_hits(const Visit& visit) {
    const int64_t length = search_.size / kChains;
    const auto one = [&, hits = search_.hits, bins = bins_, counters = counters_.data()](
                         int64_t chain, int64_t i) {
      visit(hits[i], counters[chain * bins + distance_of(hits[i])]);
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
  // Twice as many hits as wanted are kept, because thresholds are estimates; about one in a block
  // where nothing is known.
  const double hits = wanted == kUnlimited ? 1 : 2.0 * wanted * kernels.lanes / rows;
  return kernels.direct.is_faster(bytes, queries, hits);
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

Searches::Searches(const Codes& queries, const int64_t* chosen, const int64_t* thresholds,
                   int64_t n, int64_t wanted)
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

Searches::~Searches() {
  for (const Search& search : searches_) std::free(search.hits);
}

Scan::Scan(const Codes& queries, const std::vector<int64_t>& chosen,
           const std::vector<int64_t>& thresholds, const Codes& database, Bitmap allowed,
           int64_t wanted, Mode mode)
    : bins_(queries.bins()), plan_(chosen.size(), database.rows), parts_(plan_.tasks()) {
  const HammingKernels& kernels = hamming_kernels();
  const bool direct = is_direct(queries.bytes, chosen.size(), database.rows, wanted);
  const auto kernel = mode == Mode::find ? (direct ? kernels.direct.find : kernels.find)
                                         : (direct ? kernels.direct.count : kernels.count);
  torch::stable::parallel_for(0, plan_.tasks(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const Part mine = plan_.queries(task);
      parts_[task] = std::make_unique<Searches>(queries, chosen.data() + mine.first,
                                                thresholds.data() + mine.first,
                                                mine.last - mine.first, wanted);
      Searches& searches = *parts_[task];
      Blocks blocks(database, plan_.rows(task), allowed,
                    direct ? kernels.direct.arrange : kernels.slice, searches.size());
      while (blocks.next()) kernel(*blocks, searches.data(), searches.size());
    }
  });
}

template <class Visit>
void Scan::for_parts(int64_t i, const Visit& visit) const {
  for (int64_t part = 0; part < plan_.query_parts; ++part) {
    const Part mine = plan_.queries(part * plan_.row_parts);
    if (i < mine.first || i >= mine.last) continue;
    for (int64_t row_part = 0; row_part < plan_.row_parts; ++row_part)
      visit((*parts_[part * plan_.row_parts + row_part])[i - mine.first]);
  }
}

int64_t Scan::number(int64_t i) const {
  int64_t sum = 0;
  for_parts(i, [&](const Search& search) { sum += search.size; });
  return sum;
}

void Scan::place(int64_t i, int64_t room, int32_t* distances, int64_t* ids) const {
  std::vector<Chains> parts;
  for_parts(i, [&](const Search& search) { parts.emplace_back(search, bins_); });
  int64_t position = 0;
  for (int64_t d = 0; d < bins_; ++d)
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

}  // namespace hashfast
