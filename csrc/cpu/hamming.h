// Blocked scan of packed codes, shared by top-k, histogram and range.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hashfast {

struct Codes {
  const uint8_t* data;
  int64_t rows, bytes;

  explicit Codes(const torch::stable::Tensor& contiguous)
      : data(contiguous.const_data_ptr<uint8_t>()),
        rows(contiguous.size(0)),
        bytes(contiguous.size(1)) {}
  const uint8_t* row(int64_t i) const { return data + i * bytes; }
  int64_t bins() const { return 8 * bytes + 1; }
};

// Distances of one query to n consecutive codes.
using DistanceKernel = void (*)(const uint8_t* query, const uint8_t* codes, int64_t n,
                                int64_t bytes, uint16_t* out);
DistanceKernel distance_kernel(int64_t bytes);

constexpr int64_t kBlock = 2048;  // codes a block: their distances stay in the first-level cache
constexpr int64_t kTile = 8;      // queries that read a block while it is in cache
constexpr int64_t kGroup = 256;   // queries whose counters are held at once

// A group of queries cut into tiles, and the database into chunks when tiles are fewer than
// threads.
class Plan {
 public:
  Plan(int64_t queries, int64_t rows)
      : queries_(queries), rows_(rows), tiles_((queries + kTile - 1) / kTile) {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t wanted = tiles_ >= threads ? 1 : (threads + tiles_ - 1) / tiles_;
    chunks_ = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(rows / kBlock, 1));
  }
  int64_t chunks() const { return chunks_; }

  // Calls visit(query, chunk, first code, number of codes, distances), in code order in each chunk.
  template <class Visit>
  void scan(const Codes& query, int64_t first_query, const Codes& database,
            const Visit& visit) const {
    const DistanceKernel kernel = distance_kernel(query.bytes);
    torch::stable::parallel_for(0, tiles_ * chunks_, 1, [&](int64_t begin, int64_t end) {
      uint16_t distances[kBlock];
      for (int64_t task = begin; task < end; ++task) {
        const int64_t tile = task / chunks_, chunk = task % chunks_;
        const int64_t last_query = std::min((tile + 1) * kTile, queries_);
        const int64_t last = rows_ * (chunk + 1) / chunks_;
        for (int64_t start = rows_ * chunk / chunks_; start < last; start += kBlock) {
          const int64_t count = std::min(kBlock, last - start);
          for (int64_t q = tile * kTile; q < last_query; ++q) {
            kernel(query.row(first_query + q), database.row(start), count, query.bytes, distances);
            visit(q, chunk, start, count, distances);
          }
        }
      }
    });
  }

 private:
  int64_t queries_, rows_, tiles_, chunks_;
};

// Writes the hits of every query in (distance, id) order: count per distance, then place.
//   cutoff(query, counts): the largest distance kept, given the number of codes at each distance
//   sink(query): where its hits go, and how many fit
struct Sink {
  int32_t* distances;
  int64_t* ids;
  int64_t capacity;
};

template <class Cutoff, class MakeSink>
void rank(const Codes& query, const Codes& database, const Cutoff& cutoff,
          const MakeSink& make_sink) {
  const int64_t bins = query.bins();
  for (int64_t first = 0; first < query.rows; first += kGroup) {
    const int64_t group = std::min(kGroup, query.rows - first);
    const Plan plan(group, database.rows);
    const int64_t chunks = plan.chunks();
    std::vector<int64_t> counters(group * chunks * bins, 0);
    const auto counter = [&](int64_t q, int64_t chunk) {
      return counters.data() + (q * chunks + chunk) * bins;
    };
    plan.scan(query, first, database,
              [&](int64_t q, int64_t chunk, int64_t, int64_t count, const uint16_t* distances) {
                int64_t* counts = counter(q, chunk);
                for (int64_t i = 0; i < count; ++i) ++counts[distances[i]];
              });
    // Counts become the position of the first hit of each (distance, chunk).
    std::vector<int64_t> limits(group), totals(bins);
    for (int64_t q = 0; q < group; ++q) {
      std::fill(totals.begin(), totals.end(), 0);
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        for (int64_t d = 0; d < bins; ++d) totals[d] += counter(q, chunk)[d];
      limits[q] = cutoff(first + q, totals);
      int64_t position = 0;
      for (int64_t d = 0; d < bins; ++d)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          const int64_t count = counter(q, chunk)[d];
          counter(q, chunk)[d] = position;
          position += count;
        }
    }
    plan.scan(
        query, first, database,
        [&](int64_t q, int64_t chunk, int64_t start, int64_t count, const uint16_t* distances) {
          const int64_t limit = limits[q];
          int64_t* positions = counter(q, chunk);
          const Sink sink = make_sink(first + q);
          constexpr int64_t kStep = 64;  // hits are rare: skip whole steps without one
          for (int64_t i = 0; i < count; i += kStep) {
            const int64_t stop = std::min(i + kStep, count);
            bool any = false;
            for (int64_t j = i; j < stop; ++j) any |= distances[j] <= limit;
            if (!any) continue;
            for (int64_t j = i; j < stop; ++j) {
              if (distances[j] > limit) continue;
              const int64_t position = positions[distances[j]]++;
              if (position >= sink.capacity) continue;
              sink.distances[position] = distances[j];
              sink.ids[position] = start + j;
            }
          }
        });
  }
}

}  // namespace hashfast
