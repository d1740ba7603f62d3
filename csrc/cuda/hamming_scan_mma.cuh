// The scan on tensor cores that multiply single bits.
//
// A code y and a query x agree in popcount(x AND y) + popcount(~x AND ~y) bits: one product of
// [x, ~x] with [y, ~y]. Added to threshold - bits it gives threshold - distance, whose sign says
// whether the code is near enough; the AND of many such numbers is negative if none is.
//
// A block reads a chunk of the database once for all its queries: into planes in shared memory, as
// the lanes of a product want the words of [y, ~y]. Its warps share out the queries, 16 kTiles to a
// warp, and the rows where there are fewer queries.
#pragma once

#include "async_copy.cuh"
#include "b1_mma.cuh"
#include "hamming_filter.cuh"

namespace hashfast {

constexpr int kScanThreads = 256;
constexpr int kScanWarps = kScanThreads / 32;

// kRegisters of B to a product: 1 for products of 128 bits (codes of 64), 2 for 256 bits (128 of a
// code). kSteps products make a code, kTiles of 16 queries go to a warp.
template <int kRegisters, int kSteps, int kTiles>
struct MmaShape {
  static_assert(kRegisters == 2 || kSteps == 1);
  static constexpr int kA = 2 * kRegisters;               // registers of A
  static constexpr int kWords = 2 * kRegisters * kSteps;  // words of a code, padded
  // A thread brings 32 bytes of the next chunk while it works on one.
  static constexpr int kRows = 32 * kScanThreads / (4 * kWords);
  // A plane holds what the lanes of a place read: kRegisters words of every row, the second being
  // the complement of the first. Four planes that a warp reads at once lie in different banks.
  static constexpr int kStride = kRegisters * kRows + 8;
  // So do the planes of all steps, to which a warp stores words of one row at once.
  static constexpr int kStepStride = 4 * kStride + 32 / kSteps % 32;
  static constexpr int kMostQueries = 16 * kTiles * kScanWarps;
  static constexpr int kBlocks = kSteps > 4 ? 1 : kTiles == 1 && kSteps <= 2 ? 4 : 2;
  // Planes, codes and limits of the next chunk, biases (twice), touched queries, finds, the ticket.
  static constexpr int kPlaneWords = kSteps * kStepStride;
  static constexpr int kCodeBytes = 32 * kScanThreads;
  static constexpr size_t kShared = 4 * kPlaneWords + kCodeBytes +
                                    (sizeof(Limit) + 3 * sizeof(int)) * kMostQueries +
                                    4 * (Finds::kWords + 1);

  // Stores word w of a row, or zeros where it does not count: such a row agrees with nothing.
  __device__ static __forceinline__ void put(uint32_t* planes, int w, int position, uint32_t word,
                                             bool counts) {
    if constexpr (kRegisters == 1) {
      uint32_t* const at = planes + w * kStride + position;
      at[0] = counts ? word : 0;
      at[2 * kStride] = counts ? ~word : 0;
    } else {
      *reinterpret_cast<uint2*>(planes + w / 4 * kStepStride + w % 4 * kStride + 2 * position) =
          counts ? make_uint2(word, ~word) : make_uint2(0, 0);
    }
  }

  // The position, from `base` on, of column g of product j out of four: a vector that a lane reads
  // holds its columns of four products, or of two.
  __device__ static __forceinline__ int position(int j, int g) {
    return kRegisters == 1 ? 4 * g + j : j / 2 * 16 + 2 * g + j % 2;
  }
};

// Brings a chunk from the database into planes; every thread waits for its own part only.
// kCodeWords: words of a code, where the database is aligned for vectors and a code has 1 or all
// kWords; 0 where not.
template <class Shape, int kCodeWords>
struct ChunkLoader {
  static constexpr int kVectors = Shape::kRows * kCodeWords / (4 * kScanThreads);
  // Rows of a vector go to parts of a plane, so that a warp's stores go to different banks.
  static constexpr int kParts = kCodeWords > 0 && kCodeWords < 4 ? 4 / kCodeWords : 1;

  __device__ static __forceinline__ void fetch(uint4* codes, const PackedCodes& database,
                                               int64_t first, int size) {
    if constexpr (kVectors > 0) {
      const int held = static_cast<int>(min(database.rows - first, int64_t{size}));
      const int bytes = 4 * kCodeWords * held;
      const uint8_t* const chunk = database.data + first * (4 * kCodeWords);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int at = i * kScanThreads + threadIdx.x;
        if (16 * at < bytes) copy_async(codes + at, chunk + 16 * at, min(bytes - 16 * at, 16));
      }
    }
  }

  // The row, within a chunk of this size, at a position of a plane.
  __device__ static unsigned row_at(unsigned position, unsigned size) {
    const unsigned part = size / kParts;
    return position % part * kParts + position / part;
  }

  __device__ static __forceinline__ void store(uint32_t* planes, const uint4* codes,
                                               const PackedCodes& database, const uint8_t* allowed,
                                               int64_t first, unsigned size) {
    const auto counts = [&](unsigned row) {
      return first + row < database.rows && is_allowed(allowed, first + row);
    };
    if constexpr (kCodeWords > 0) {
      if (!allowed && database.rows - first >= size)
        put_vectors(planes, codes, size, [](unsigned) { return true; });
      else
        put_vectors(planes, codes, size, counts);
    } else {
      for (unsigned i = threadIdx.x; i < size * Shape::kWords; i += kScanThreads) {
        const unsigned row = i / Shape::kWords;
        const int w = i % Shape::kWords;
        const bool valid = counts(row);
        const uint32_t word = valid && w < database.words() ? database.word(first + row, w) : 0;
        Shape::put(planes, w, row, word, valid);
      }
    }
  }

 private:
  template <class Counts>
  __device__ static __forceinline__ void put_vectors(uint32_t* planes, const uint4* codes,
                                                     unsigned size, Counts counts) {
    // Several rows to a vector, or several vectors to a row.
    constexpr unsigned kRowVectors = kCodeWords > 4 ? kCodeWords / 4 : 1;
    constexpr int kRowWords = kCodeWords < 4 ? kCodeWords : 4;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const unsigned at = i * kScanThreads + threadIdx.x;
      if (4 * at >= size * kCodeWords) break;
      const uint4 vector = codes[at];
      const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
      uint32_t* const first_plane = planes + at % kRowVectors * Shape::kStepStride;
      const unsigned first_row = at / kRowVectors;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int part = j / kRowWords;
        Shape::put(first_plane, j % kRowWords, first_row + part * (size / kParts), words[j],
                   counts(first_row * kParts + part));
      }
    }
  }
};

// The fragments of a warp's queries.
template <class Shape, int kSteps, int kTiles>
struct QueryFragments {
  uint32_t a[kTiles][kSteps][Shape::kA];

  __device__ __forceinline__ void load(const PackedCodes& queries, int64_t first) {
    const int group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int i = 0; i < Shape::kA; ++i) {
          // Rows alternate; then the second half of the bits.
          const int64_t query = first + 16 * tile + group + 8 * (i % 2);
          // In products of 128 bits two places hold words and two their complements.
          const bool complement = Shape::kA == 2 ? place >= 2 : i >= 2;
          const int w = Shape::kA == 2 ? 2 * step + place % 2 : 4 * step + place;
          uint32_t word = 0;
          if (query < queries.rows && w < queries.words()) {
            word = queries.word(query, w);
            if (complement) word = ~word & queries.word_mask(w);
          }
          a[tile][step][i] = word;
        }
  }
};

template <int kRegisters, int kSteps, int kTiles, int kCodeWords>
__global__ void __launch_bounds__(kScanThreads, MmaShape<kRegisters, kSteps, kTiles>::kBlocks)
    hamming_scan_mma_kernel(PackedCodes queries, PackedCodes database, const uint8_t* allowed,
                            Chunks chunks, unsigned tickets, int query_shift, Filter filter) {
#ifdef HASHFAST_NO_B1_MMA
  // Never launched there.
#else
  using Shape = MmaShape<kRegisters, kSteps, kTiles>;
  using Loader = ChunkLoader<Shape, kCodeWords>;
  HASHFAST_DYNAMIC_SHARED(shared);
  uint32_t* const planes = reinterpret_cast<uint32_t*>(shared);
  uint4* const codes = reinterpret_cast<uint4*>(planes + Shape::kPlaneWords);
  Limit* const limits = reinterpret_cast<Limit*>(codes + Shape::kCodeBytes / 16);
  int* const biases = reinterpret_cast<int*>(limits + Shape::kMostQueries);
  int* const touched = biases + 2 * Shape::kMostQueries;
  unsigned* const slot = reinterpret_cast<unsigned*>(touched + Shape::kMostQueries);
  const Finds finds(slot + 1);

  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
  // 1 << query_shift warps share out the queries, the others the rows.
  const int block_queries = 16 * kTiles << query_shift;
  const int query_warp = warp & ((1 << query_shift) - 1), row_warp = warp >> query_shift;
  const int warp_query = 16 * kTiles * query_warp;  // within those of the block
  const int step_rows = 32 * kScanWarps >> query_shift;
  const int bits = database.bits();

  const auto turn_of = [&](unsigned ticket) {
    const unsigned block = ticket / chunks.number;
    return Turn{int64_t{block} * block_queries, ticket - block * chunks.number, block_queries,
                block * chunks.number};
  };
  const auto fetch_codes = [&](const Turn& turn) {
    Loader::fetch(codes, database, chunks.first(turn.chunk), chunks.size(turn.chunk));
  };
  // Two limits a thread; 0 for queries that are not there, to which nothing is near enough. They
  // may be lowered meanwhile: an older one is only less tight.
  const auto fetch_limits = [&](const Turn& turn) {
    const int at = 2 * threadIdx.x;
    if (at < block_queries) {
      const int64_t query = turn.first_query + at;
      const int held = static_cast<int>(max(min(queries.rows - query, int64_t{2}), int64_t{0}));
      copy_async(limits + at, filter.limits + (held > 0 ? query : 0), sizeof(Limit) * held);
    }
  };

  for (int i = threadIdx.x; i < block_queries; i += kScanThreads) touched[i] = 0;
  if (threadIdx.x == 0) {
    *finds.number = 0;
    slot[0] = atomicAdd(filter.taken, 2u);
  }
  __syncthreads();
  unsigned ticket = slot[0], following = ticket + 1;
  Turn turn = turn_of(ticket);
  if (ticket < tickets) {
    fetch_codes(turn);
    fetch_limits(turn);
  }
  QueryFragments<Shape, kSteps, kTiles> fragments;
  int64_t held = -1;  // first query of the fragments

  while (ticket < tickets) {
    const int size = chunks.size(turn.chunk);
    const int64_t first_row = chunks.first(turn.chunk);
    wait_for_copies();
    Loader::store(planes, codes, database, allowed, first_row, size);
    // Each twice: the compiler would copy one register for both columns before every product.
    for (int i = 0; i < 4; ++i) {
      const int at = 2 * threadIdx.x + i / 2;
      if (at < block_queries)
        biases[2 * at + i % 2] = largest_distance(limits[at], turn.chunk, bits) - bits;
    }
    __syncthreads();

    unsigned taken = 0;
    if (threadIdx.x == 0) taken = atomicAdd(filter.taken, 1u);  // here before it is needed
    const Turn next = turn_of(following);
    if (following < tickets) fetch_codes(next);
    if (turn.first_query != held) fragments.load(queries, turn.first_query + warp_query);
    held = turn.first_query;
    int bias[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        bias[tile][i] = biases[2 * (warp_query + 16 * tile + group + i / 2 * 8) + i % 2];

    const uint32_t* const own = planes + place * Shape::kStride + 4 * group;
    for (int base = 32 * row_warp; base < size; base += step_rows) {
      uint32_t b[4][kSteps][kRegisters];
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int i = 0; i < kRegisters; ++i) {
          const uint4 words = *reinterpret_cast<const uint4*>(own + step * Shape::kStepStride +
                                                              kRegisters * base + 32 * i);
          // Four products by one register, or two by two.
          const uint32_t all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if constexpr (kRegisters == 1)
              b[j][step][0] = all[j];
            else
              b[2 * i + j / 2][step][j % 2] = all[j];
          }
        }
      const auto multiply = [&](int (&d)[4], int tile, int j) {
        mma_b1(d, fragments.a[tile][0], b[j][0], bias[tile]);
#pragma unroll
        for (int step = 1; step < kSteps; ++step) mma_b1(d, fragments.a[tile][step], b[j][step], d);
      };
      int far[4];  // negative where product j found nothing
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        far[j] = -1;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          int d[4];
          multiply(d, tile, j);
          far[j] &= d[0] & d[1] & d[2] & d[3];
        }
      }
      if (!__any_sync(kFullWarp, (far[0] & far[1] & far[2] & far[3]) >= 0)) continue;
      unsigned long long near = 0;  // bit 16 j + 4 tile + i: number i of product j
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!__any_sync(kFullWarp, far[j] >= 0)) continue;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          int d[4];
          multiply(d, tile, j);
#pragma unroll
          for (int i = 0; i < 4; ++i)
            near |= static_cast<unsigned long long>(d[i] >= 0) << (16 * j + 4 * tile + i);
        }
      }
      for (; near; near &= near - 1) {
        const int bit = __ffsll(near) - 1, i = bit % 4;
        const int at = warp_query + bit % 16 / 4 * 16 + group + i / 2 * 8;
        const int position = base + Shape::position(bit / 16, 2 * place + i % 2);
        const unsigned found = Loader::row_at(position, size);
        if (!finds.add(at, found))
          record_found(queries, database, filter, turn, first_row, touched, at, found);
      }
      __syncwarp();  // products are those of a whole warp
    }
    if (following < tickets) fetch_limits(next);  // as late as can be
    if (threadIdx.x == 0) slot[0] = taken;
    __syncthreads();
    settle(queries, database, filter, turn, first_row, finds, touched);
    ticket = following;
    turn = next;
    following = slot[0];
  }
#endif
}

}  // namespace hashfast
