// The scan on tensor cores that multiply single bits.
//
// A code y and a query x agree in popcount(x AND y) + popcount(~x AND ~y) bits: one product of
// [x, ~x] with [y, ~y]. Added to threshold - bits it gives threshold - distance, whose sign says
// whether the code is near enough; the AND of many such numbers is negative if none is.
//
// A block reads a chunk of the database once for all its queries: into planes in shared memory, a
// plane for each word of [y, ~y] in the order of the product's fragments. Its warps share out the
// queries, 16 kTiles to a warp, and the rows where there are fewer queries.
#pragma once

#include "async_copy.cuh"
#include "b1_mma.cuh"
#include "hamming_filter.cuh"

namespace hashfast {

constexpr int kScanThreads = 256;
constexpr int kScanWarps = kScanThreads / 32;

// kRegisters of B to a product: 1 for products of 128 bits (64 of a code), 2 for 256 bits (128).
// kSteps products make a code, kTiles of 16 queries go to a warp.
template <int kRegisters, int kSteps, int kTiles>
struct MmaShape {
  static constexpr int kA = 2 * kRegisters;               // registers of A
  static constexpr int kWords = 2 * kRegisters * kSteps;  // words of a code, padded
  static constexpr int kPlanes = 2 * kWords;
  // A thread brings 32 bytes of the next chunk while it works on one.
  static constexpr int kRows = 32 * kScanThreads / (4 * kWords);
  // Four planes that a warp reads at once lie in different banks.
  static constexpr int kStride = kRows + 8;
  static constexpr int kMostQueries = 16 * kTiles * kScanWarps;
  static constexpr int kBlocks = kSteps * kTiles >= 8 ? 1 : kTiles == 1 && kSteps == 1 ? 4 : 2;
  // Planes, codes and limits of the next chunk, biases (twice), touched queries, finds, the ticket.
  static constexpr int kPlaneWords = kPlanes * kStride;
  static constexpr int kCodeBytes = 32 * kScanThreads;
  static constexpr size_t kShared = 4 * kPlaneWords + kCodeBytes +
                                    (sizeof(Limit) + 3 * sizeof(int)) * kMostQueries +
                                    4 * (Finds::kWords + 1);

  // The plane of word w of a code; that of its complement lies kRegisters == 1 ? 2 : 4 further.
  __host__ __device__ static constexpr int plane(unsigned w) {
    return static_cast<int>(kRegisters == 1 ? w / 2 * 4 + w % 2 : w / 4 * 8 + w % 4);
  }
  static constexpr int kToComplement = 2 * kRegisters;
};

// Brings a chunk from the database into planes; every thread waits for its own part only.
// kCodeWords: words of a code, where the database is aligned for vectors and a code has 1 or all
// kWords; 0 where not.
template <class Shape, int kCodeWords>
struct ChunkLoader {
  static constexpr int kVectors = Shape::kRows * kCodeWords / (4 * kScanThreads);
  // Rows of a vector go to parts of a plane, so that a warp's stores go to different banks.
  static constexpr int kParts = kCodeWords > 0 && kCodeWords < 4 ? 4 / kCodeWords : 1;

  // What lies beyond the end of the database becomes 0.
  __device__ static void fetch(uint4* codes, const PackedCodes& database, int64_t first, int size) {
    if constexpr (kVectors == 0) return;
    const int64_t left = min(database.rows - first, int64_t{size}) * database.bytes;
    const uint8_t* const chunk = database.data + first * database.bytes;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const unsigned at = i * kScanThreads + threadIdx.x;
      const int held = static_cast<int>(max(min(left - 16 * at, int64_t{16}), int64_t{0}));
      copy_async(codes + at, held > 0 ? chunk + 16 * at : database.data, held);
    }
  }

  // The row, within a chunk of this size, at a position of a plane.
  __device__ static unsigned row_at(unsigned position, unsigned size) {
    const unsigned part = size / kParts;
    return position % part * kParts + position / part;
  }

  // Rows that do not count agree with nothing: all their planes are 0.
  __device__ static void store(uint32_t* planes, const uint4* codes, const PackedCodes& database,
                               const uint8_t* allowed, int64_t first, unsigned size) {
    const unsigned left = static_cast<unsigned>(min(database.rows - first, int64_t{size}));
    const auto counts = [&](unsigned row) {
      return row < left && is_allowed(allowed, first + row);
    };
    const auto put = [](uint32_t* plane, uint32_t word, bool valid) {
      plane[0] = valid ? word : 0;
      plane[Shape::kToComplement * Shape::kStride] = valid ? ~word : 0;
    };
    if constexpr (kCodeWords == 0) {
      for (unsigned i = threadIdx.x; i < size * Shape::kWords; i += kScanThreads) {
        const unsigned row = i / Shape::kWords;
        const int w = i % Shape::kWords;
        const bool valid = counts(row);
        put(planes + Shape::plane(w) * Shape::kStride + row,
            valid && w < database.words() ? database.word(first + row, w) : 0, valid);
      }
    } else {
      // Several rows to a vector, or several vectors to a row.
      constexpr unsigned kRowVectors = kCodeWords > 4 ? kCodeWords / 4 : 1;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const unsigned at = i * kScanThreads + threadIdx.x;
        if (at / kRowVectors * kParts >= size) break;
        const uint4 vector = codes[at];
        const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
        uint32_t* const first_plane =
            planes + Shape::plane(at % kRowVectors * 4) * Shape::kStride + at / kRowVectors;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int part = j / (kCodeWords < 4 ? kCodeWords : 4), w = j % kCodeWords;
          put(first_plane + Shape::plane(w) * Shape::kStride + part * (size / kParts), words[j],
              counts(at / kRowVectors * kParts + part));
        }
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
          const int plane = 4 * (i / 2) + place;
          const bool complement = plane >= Shape::kToComplement;
          const int w = Shape::kToComplement * step + plane % Shape::kToComplement;
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
                            Chunks chunks, unsigned tickets, int query_warps, Filter filter) {
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
  const int block_queries = 16 * kTiles * query_warps;
  const int warp_query = warp % query_warps * 16 * kTiles;  // within those of the block
  const int bits = database.bits();

  const auto fetch_codes = [&](unsigned ticket) {
    const unsigned chunk = ticket % chunks.number;
    if (ticket < tickets) Loader::fetch(codes, database, chunks.first(chunk), chunks.size(chunk));
  };
  // Two limits a thread; 0 for queries that are not there, to which nothing is near enough.
  const auto fetch_limits = [&](unsigned ticket) {
    const int at = 2 * threadIdx.x;
    const int64_t query = int64_t{ticket / chunks.number} * block_queries + at;
    if (ticket < tickets && at < block_queries) {
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
  fetch_codes(ticket);
  fetch_limits(ticket);
  QueryFragments<Shape, kSteps, kTiles> fragments;
  unsigned held = ~0u;  // the block of queries of the fragments

  while (ticket < tickets) {
    const unsigned block = ticket / chunks.number, chunk = ticket % chunks.number;
    const int size = chunks.size(chunk);
    const Turn turn{int64_t{block} * block_queries, chunks.first(chunk), block_queries,
                    block * chunks.number};
    wait_for_copies();
    Loader::store(planes, codes, database, allowed, turn.first_row, size);
    // Each twice: the compiler would copy one register for both columns before every product.
    for (int i = 0; i < 4; ++i) {
      const int at = 2 * threadIdx.x + i / 2;
      if (at < block_queries)
        biases[2 * at + i % 2] = largest_distance(limits[at], chunk, bits) - bits;
    }
    __syncthreads();

    unsigned taken = 0;
    if (threadIdx.x == 0) taken = atomicAdd(filter.taken, 1u);  // here before it is needed
    fetch_codes(following);
    if (block != held) fragments.load(queries, turn.first_query + warp_query);
    held = block;
    int bias[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        bias[tile][i] = biases[2 * (warp_query + 16 * tile + group + i / 2 * 8) + i % 2];

    for (int base = warp / query_warps * 32; base < size; base += kScanWarps / query_warps * 32) {
      // Column g of product j is at position 4 g + j of these 32.
      uint32_t b[4][kSteps][kRegisters];
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int i = 0; i < kRegisters; ++i) {
          const int plane = 4 * (step * kRegisters + i) + place;
          const uint4 words =
              *reinterpret_cast<const uint4*>(planes + plane * Shape::kStride + base + 4 * group);
          b[0][step][i] = words.x;
          b[1][step][i] = words.y;
          b[2][step][i] = words.z;
          b[3][step][i] = words.w;
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
        const int position = base + 4 * (2 * place + i % 2) + bit / 16;
        const unsigned found = Loader::row_at(position, size);
        if (!finds.add(at, found))
          record_found(queries, database, filter, turn, touched, at, found);
      }
    }
    fetch_limits(following);  // as late as can be
    if (threadIdx.x == 0) slot[0] = taken;
    __syncthreads();
    settle(queries, database, filter, turn, finds, touched);
    ticket = following;
    following = slot[0];
  }
#endif
}

}  // namespace hashfast
