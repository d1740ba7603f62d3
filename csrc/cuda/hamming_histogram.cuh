// How many rows lie at each distance from each query.
//
// A block counts a stretch of rows for a few queries. Every distance has several counters in shared
// memory, neighbouring lanes using different ones: rows at one distance do not wait for each other
// then, however alike the codes are. At 64 bits every lane has its own, and 32 pairs take about 11
// instructions (3 clocks of a multiprocessor's four schedulers), among them one shared addition
// without conflicts (1 or 2 clocks) and 2 population counts (4 clocks, 16 lanes each), which set
// the pace: 8 pairs a clock and multiprocessor.
#pragma once

#include <algorithm>
#include <type_traits>

#include "hamming_labels.cuh"
#include "hamming_rows.cuh"

namespace hashfast {
namespace histogram {

constexpr int kThreads = 256, kQueries = 4;
constexpr int64_t kLeastRows = 4096;  // of a block: emptying its counters takes as long as 1000

// Rows of a thread that are read before any is counted: as many as registers can hold.
template <class Format, bool Labelled>
constexpr int kSteps = !Format::kWhole                                 ? 1
                       : Labelled || sizeof(typename Format::Word) > 8 ? 2
                                                                       : 4;

// Counters of a distance, a power of 2: as many as there is room for.
inline int columns_of(int bins) {
  int columns = 32;
  while (columns && columns * bins * kQueries * sizeof(unsigned) > kSharedMemory) columns /= 2;
  return columns;
}

struct Job {
  const uint8_t *queries, *database;
  LabelPointers labels;
  int64_t q, n;
  int bytes, bins;
  int columns;              // 0: rows are counted in `out` itself
  int64_t groups, rows;     // groups of kQueries queries; rows of a block
  unsigned long long* out;  // [q, bins], zeros at first
};

template <class Format, bool Labelled>
__global__ void __launch_bounds__(kThreads) count_distances(const Job job) {
  HASHFAST_DYNAMIC_SHARED(shared);
  auto* const counters = reinterpret_cast<unsigned*>(shared);
  const int64_t first = blockIdx.x % job.groups * kQueries;
  const int64_t begin = blockIdx.x / job.groups * job.rows, end = min(begin + job.rows, job.n);
  const int each = job.bins * job.columns;  // counters of a query
  for (int i = threadIdx.x; i < kQueries * each; i += kThreads) counters[i] = 0;
  __syncthreads();

  const rows::QueryCodes<Format, kQueries> codes(job.queries, first, job.q, job.bytes);
  const QueryLabels<Labelled, kQueries> labels(job.labels, first, job.q);
  const int shift = __ffs(job.columns) - 1;
  unsigned* const mine = counters + (threadIdx.x & (job.columns - 1));
  int64_t row = begin + threadIdx.x;
  const auto count = [&]<int Rows>(std::integral_constant<int, Rows>) {
    int distances[Rows][kQueries];
    bool counted[Rows][kQueries];
#pragma unroll
    for (int step = 0; step < Rows; ++step)
      codes.distances(job.database + (row + step * kThreads) * job.bytes, distances[step]);
#pragma unroll
    for (int step = 0; step < Rows; ++step) labels.share(row + step * kThreads, counted[step]);
#pragma unroll
    for (int step = 0; step < Rows; ++step)
#pragma unroll
      for (int j = 0; j < kQueries; ++j) {
        const int d = distances[step][j];
        if (Format::kWhole || job.columns) {
          if (counted[step][j]) atomicAdd(&mine[j * each + (d << shift)], 1u);
        } else if (counted[step][j] && first + j < job.q) {
          atomicAdd(&job.out[(first + j) * job.bins + d], 1ull);
        }
      }
    row += Rows * kThreads;
  };
  while (row + (kSteps<Format, Labelled> - 1) * kThreads < end)
    count(std::integral_constant<int, kSteps<Format, Labelled>>{});
  while (row < end) count(std::integral_constant<int, 1>{});
  __syncthreads();

  // Threads start at different columns, so that they read different banks.
  for (int i = threadIdx.x; job.columns && i < kQueries * job.bins; i += kThreads) {
    if (first + i / job.bins >= job.q) break;
    unsigned long long sum = 0;
    for (int c = 0; c < job.columns; ++c)
      sum += counters[i * job.columns + ((c + i) & (job.columns - 1))];
    if (sum) atomicAdd(&job.out[first * job.bins + i], sum);
  }
}

}  // namespace histogram

struct HistogramSearch {
  const uint8_t *queries, *database;
  int64_t q, n;
  int bytes;
  const LabelPointers* labels;  // null: every pair counts
  int64_t* out;                 // [q, 8 bytes + 1]
};

template <class Launch>
void histogram_of(const Launch& launch, const HistogramSearch& search) {
  histogram::Job job{};
  job.queries = search.queries;
  job.database = search.database;
  if (search.labels) job.labels = *search.labels;
  job.q = search.q;
  job.n = search.n;
  job.bytes = search.bytes;
  job.bins = 8 * search.bytes + 1;
  job.out = reinterpret_cast<unsigned long long*>(search.out);
  launch.zero(search.out, search.q * job.bins * sizeof(int64_t));
  if (search.q == 0 || search.n == 0) return;

  job.columns = histogram::columns_of(job.bins);
  job.groups = (search.q + histogram::kQueries - 1) / histogram::kQueries;
  // Enough blocks to fill the GPU several times, as some end late; counters hold 32 bits.
  const int64_t most = (search.n + histogram::kLeastRows - 1) / histogram::kLeastRows;
  const int64_t wanted = (int64_t{32} * launch.processors() + job.groups - 1) / job.groups;
  const int64_t parts = std::max(std::min(wanted, most), (search.n >> 31) + 1);
  job.rows = (search.n + parts - 1) / parts;
  rows::with_format(search.queries, search.database, search.bytes, [&](auto format) {
    const auto run = [&](auto kernel) {
      launch(kernel, dim3(static_cast<unsigned>(job.groups * parts)), histogram::kThreads,
             histogram::kQueries * job.bins * job.columns * sizeof(unsigned), job);
    };
    if (search.labels)
      run(histogram::count_distances<decltype(format), true>);
    else
      run(histogram::count_distances<decltype(format), false>);
  });
}

}  // namespace hashfast
