// The k nearest codes of every query: which kernels run, with what memory.
//
// A sample gives first limits, a scan records what may be among the nearest, a selection orders it.
// For the few queries of which a scan could not keep everything, and for databases too small to be
// worth a scan, the ordered search counts and places instead. All sizes follow from shapes alone
// and nothing is read back, so a stream never waits and a CUDA graph can hold the whole search.
#pragma once

#include <algorithm>

#include "hamming_ordered_topk.cuh"
#include "hamming_sample.cuh"
#include "hamming_scan_mma.cuh"
#include "hamming_scan_popc.cuh"
#include "hamming_select.cuh"

namespace hashfast {

constexpr int kMostFilteredBytes = 512;
constexpr int64_t kMostFilteredK = 16384;
constexpr int64_t kLeastFilteredRows = 8192;
constexpr int kMostMmaWords = 32;

struct TopK {
  const uint8_t *queries, *database, *allowed;
  int64_t q, n;
  int bytes;
  int64_t k;
  int* distances;
  int64_t* ids;
};

// Rows that a block of the scan takes at once.
constexpr int chunk_rows(bool on_tensor_cores, int words) {
  if (!on_tensor_cores) return kPopcChunk;
  return words <= 2    ? MmaShape<1, 1, 1>::kRows
         : words <= 4  ? MmaShape<2, 1, 1>::kRows
         : words <= 8  ? MmaShape<2, 2, 1>::kRows
         : words <= 16 ? MmaShape<2, 4, 1>::kRows
                       : MmaShape<2, 8, 1>::kRows;
}
constexpr int kMostChunkRows = 1024;  // all the others divide it
constexpr int kSmallChunks = 16;      // for each processor

struct TopKPlan {
  bool filtered;  // or only the ordered search
  bool on_tensor_cores;
  int64_t batch;  // queries at a time
  Chunks chunks;
  SampleRows sample{};
  unsigned capacity = 0;  // hits kept of a query
  int size = 1;           // keys sorted, a power of two

  TopKPlan(int64_t q, int64_t n, int bytes, int64_t k, bool multiplies_bits, int processors)
      : on_tensor_cores(multiplies_bits && bytes <= 4 * kMostMmaWords),
        chunks(n, chunk_rows(on_tensor_cores, (bytes + 3) / 4), kSmallChunks * processors) {
    filtered = q > 0 && bytes <= kMostFilteredBytes && k <= kMostFilteredK &&
               n >= std::max(kLeastFilteredRows, 8 * k);
    k = std::min(k, kMostFilteredK);
    // Large enough that the first limits, which hold until all processors have done a chunk, let
    // little through; small beside the database.
    take_sample(n, std::min(std::clamp(64 * k, int64_t{1} << 15, int64_t{1} << 17), n / 8),
                std::clamp(32 * k, int64_t{1} << 12, int64_t{1} << 15));
    // Several times what is expected: where all near codes lie together, a limit is lowered only
    // when many have been recorded.
    constexpr int64_t kHits = int64_t{1} << 25;
    const int64_t least = 8 * k + 16384;
    capacity = static_cast<unsigned>(
        std::min(n, std::clamp(kHits / std::max(q, int64_t{1}), least, 8 * least)));
    batch = std::max(kHits / (capacity + 1), int64_t{16});
    batch = std::min(q, batch >= 512 ? batch / 512 * 512 : batch / 16 * 16);
    while (size < k) size *= 2;
    if (!filtered) batch = q;
  }

  // Takes about so many rows of n, up to half of them from the first ones.
  void take_sample(int64_t n, int64_t rows, int64_t head) {
    head = std::min(head, rows / 2) / kMostChunkRows * kMostChunkRows;
    sample.head_runs = head / kSampleRun;
    sample.head_chunks = chunks.behind(head);
    sample.runs = std::max(rows / kSampleRun, sample.head_runs + 1);
    sample.stride = std::max((n - head) / (sample.runs - sample.head_runs), int64_t{kSampleRun});
  }
};

// Cuts memory into parts, each aligned for vectors; without memory it only measures them.
class Workspace {
 public:
  explicit Workspace(void* memory) : first_(reinterpret_cast<uintptr_t>(memory)) {}
  template <class T>
  T* take(int64_t number) {
    T* const part = reinterpret_cast<T*>(first_ + bytes_);
    bytes_ += (number * sizeof(T) + 15) / 16 * 16;
    return part;
  }
  size_t bytes() const { return bytes_; }

 private:
  uintptr_t first_;
  size_t bytes_ = 0;
};

// What the filtered search works with.
struct FilterMemory {
  Filter filter;
  unsigned long long* allowed_rows;
  int* again;
  Key* sorted;
  void* zeroed;  // before every batch
  void* ordered;
  size_t zeroed_bytes, bytes;

  FilterMemory(const TopKPlan& plan, int code_bytes, int64_t k, void* memory) {
    Workspace room(memory);
    filter.bins = 8 * code_bytes + 1;
    filter.capacity = plan.capacity;
    filter.k = static_cast<unsigned>(k);
    filter.taken = room.take<unsigned>(1);
    filter.recorded = room.take<unsigned>(plan.batch);
    filter.counts = room.take<unsigned>(plan.batch * filter.bins);
    zeroed = filter.taken;
    zeroed_bytes = room.bytes();
    allowed_rows = room.take<unsigned long long>(1);
    filter.limits = room.take<Limit>(plan.batch);
    again = room.take<int>(plan.batch);
    filter.hits = room.take<Key>(plan.batch * plan.capacity);
    sorted = room.take<Key>(plan.size > kSortedInShared ? plan.batch * plan.size : 0);
    ordered = room.take<unsigned char>(0);
    bytes = room.bytes();
  }
};

// Bytes of workspace that top_k wants.
inline size_t top_k_bytes(const TopKPlan& plan, int64_t n, int bytes, int64_t k, int processors) {
  const size_t ordered = ordered_topk_bytes(plan.batch, n, bytes, processors);
  return plan.filtered ? FilterMemory(plan, bytes, k, nullptr).bytes + ordered : ordered;
}

template <class Launch>
void sample(const Launch& launch, const PackedCodes& queries, const PackedCodes& database,
            const uint8_t* allowed, const TopKPlan& plan, const Filter& filter) {
  constexpr int kCountBytes = 32 * 1024;
  const int copies = std::clamp(kCountBytes / (8 * filter.bins), 1, kSampleThreads / 32);
  const size_t shared = 4 * (2 * size_t(copies) * filter.bins + queries.words());
  const auto kernel =
      database.in_words ? hamming_sample_kernel<true> : hamming_sample_kernel<false>;
  launch(kernel, dim3(queries.rows), kSampleThreads, shared, queries, database, allowed,
         plan.sample, copies, filter);
}

template <int kRegisters, int kSteps, int kTiles, int kCodeWords, class Launch>
void scan_mma(const Launch& launch, const PackedCodes& queries, const PackedCodes& database,
              const uint8_t* allowed, const Chunks& chunks, const Filter& filter) {
  using Shape = MmaShape<kRegisters, kSteps, kTiles>;
  const int64_t wanted = parts(queries.rows, 16 * kTiles);
  int query_shift = 0;
  while (1 << query_shift < wanted && 1 << query_shift < kScanWarps) ++query_shift;
  const int64_t tickets = chunks.number * parts(queries.rows, 16 * kTiles << query_shift);
  const int64_t blocks = std::min<int64_t>(tickets, launch.processors() * Shape::kBlocks);
  launch(hamming_scan_mma_kernel<kRegisters, kSteps, kTiles, kCodeWords>, dim3(blocks),
         kScanThreads, Shape::kShared, queries, database, allowed, chunks,
         static_cast<unsigned>(tickets), query_shift, filter);
}

template <int kRegisters, int kSteps, int kTiles, class Launch>
void scan_mma(const Launch& launch, const PackedCodes& queries, const PackedCodes& database,
              const uint8_t* allowed, const Chunks& chunks, const Filter& filter) {
  constexpr int kWords = MmaShape<kRegisters, kSteps, kTiles>::kWords;
  const bool aligned = reinterpret_cast<uintptr_t>(database.data) % 16 == 0;
  if (aligned && database.bytes == 4 * kWords)
    scan_mma<kRegisters, kSteps, kTiles, kWords>(launch, queries, database, allowed, chunks,
                                                 filter);
  else if (kWords == 2 && aligned && database.bytes == 4)
    scan_mma<kRegisters, kSteps, kTiles, kWords == 2 ? 1 : 0>(launch, queries, database, allowed,
                                                              chunks, filter);
  else
    scan_mma<kRegisters, kSteps, kTiles, 0>(launch, queries, database, allowed, chunks, filter);
}

// kTiles: of 16 queries, as many as a warp has registers for. Few queries do with one tile.
template <int kRegisters, int kSteps, int kTiles, class Launch>
void scan_mma_tiles(const Launch& launch, const PackedCodes& queries, const PackedCodes& database,
                    const uint8_t* allowed, const Chunks& chunks, const Filter& filter) {
  if (queries.rows <= 16)
    scan_mma<kRegisters, kSteps, 1>(launch, queries, database, allowed, chunks, filter);
  else
    scan_mma<kRegisters, kSteps, kTiles>(launch, queries, database, allowed, chunks, filter);
}

template <class Launch>
void scan_on_tensor_cores(const Launch& launch, const PackedCodes& queries,
                          const PackedCodes& database, const uint8_t* allowed, const Chunks& chunks,
                          const Filter& filter) {
  const int words = database.words();
  if (words <= 2)
    scan_mma_tiles<1, 1, 4>(launch, queries, database, allowed, chunks, filter);
  else if (words <= 4)
    scan_mma_tiles<2, 1, 4>(launch, queries, database, allowed, chunks, filter);
  else if (words <= 8)
    scan_mma_tiles<2, 2, 2>(launch, queries, database, allowed, chunks, filter);
  else if (words <= 16)
    scan_mma_tiles<2, 4, 2>(launch, queries, database, allowed, chunks, filter);
  else
    scan_mma_tiles<2, 8, 1>(launch, queries, database, allowed, chunks, filter);
}

template <class Launch>
void scan_by_popcounts(const Launch& launch, const PackedCodes& queries,
                       const PackedCodes& database, const uint8_t* allowed, const Chunks& chunks,
                       const Filter& filter) {
  const int64_t tickets = chunks.number * parts(queries.rows, kPopcQueries);
  const bool one = queries.rows == 1, words = database.in_words;
  const auto kernel =
      one     ? words ? hamming_scan_popc_kernel<1, true> : hamming_scan_popc_kernel<1, false>
      : words ? hamming_scan_popc_kernel<8, true>
              : hamming_scan_popc_kernel<8, false>;
  launch(kernel, dim3(std::min<int64_t>(tickets, launch.processors() * kPopcBlocks)), kPopcThreads,
         popc_shared(database.words()), queries, database, allowed, chunks,
         static_cast<unsigned>(tickets), filter);
}

template <class Launch>
void select(const Launch& launch, const TopKPlan& plan, const FilterMemory& memory,
            const TopK& search) {
  const bool shared = plan.size <= kSortedInShared;
  launch(shared ? hamming_select_kernel<true> : hamming_select_kernel<false>, dim3(search.q),
         kSelectThreads, shared ? sizeof(Key) * plan.size : 0, memory.filter, search.n,
         search.allowed ? memory.allowed_rows : nullptr, plan.size, memory.sorted, memory.again,
         search.distances, search.ids);
}

// Fills distances and ids [q, k]. workspace: top_k_bytes.
template <class Launch>
void top_k(const Launch& launch, const TopK& search, const TopKPlan& plan, void* workspace) {
  if (!plan.filtered) {
    ordered_topk(launch,
                 OrderedTopK{search.queries, search.database, search.allowed, search.q, search.n,
                             search.bytes, search.k, nullptr, search.distances, search.ids},
                 workspace);
    return;
  }
  const FilterMemory memory(plan, search.bytes, search.k, workspace);
  const PackedCodes database(search.database, search.n, search.bytes);
  if (search.allowed) {
    launch.zero(memory.allowed_rows, sizeof *memory.allowed_rows);
    launch(hamming_allowed_kernel, dim3(4 * launch.processors()), kSampleThreads, 0, search.allowed,
           search.n, memory.allowed_rows);
  }
  for (int64_t first = 0; first < search.q; first += plan.batch) {
    TopK part = search;
    part.q = std::min(plan.batch, search.q - first);
    part.queries += first * search.bytes;
    part.distances += first * search.k;
    part.ids += first * search.k;
    const PackedCodes queries(part.queries, part.q, part.bytes);
    launch.zero(memory.zeroed, memory.zeroed_bytes);
    sample(launch, queries, database, part.allowed, plan, memory.filter);
    if (plan.on_tensor_cores)
      scan_on_tensor_cores(launch, queries, database, part.allowed, plan.chunks, memory.filter);
    else
      scan_by_popcounts(launch, queries, database, part.allowed, plan.chunks, memory.filter);
    select(launch, plan, memory, part);
    ordered_topk(launch,
                 OrderedTopK{part.queries, part.database, part.allowed, part.q, part.n, part.bytes,
                             part.k, memory.again, part.distances, part.ids},
                 memory.ordered);
  }
}

}  // namespace hashfast
