// How many instructions of a kind a GPU does, each in a loop of independent chains.
//
// Prints the number of multiprocessors, then a line an instruction: its name, how many warps did
// it how often in all, milliseconds, and cycles of the first block; of the fastest of a few
// launches. Ends with 1 where what was computed is wrong.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#define CHECK(call)                                                                          \
  do {                                                                                       \
    const cudaError_t error = call;                                                          \
    if (error != cudaSuccess) {                                                              \
      std::fprintf(stderr, "%s, line %d: %s\n", #call, __LINE__, cudaGetErrorString(error)); \
      std::exit(2);                                                                          \
    }                                                                                        \
  } while (0)

namespace {

constexpr int kThreads = 256, kBlocksEach = 4;  // of a multiprocessor
constexpr int kChains = 8, kTurns = 4, kEach = kChains * kTurns;
constexpr int kLaunches = 5;
constexpr double kMilliseconds = 4;   // that a launch lasts, about
constexpr uint32_t kWords = 1 << 20;  // that atomics are spread over: 4 MB, far below an L2

// What a kernel cannot know at compile time.
struct Values {
  uint32_t ones, zero;
  uint32_t* words;  // kWords of them, all 0
};

// An instruction has `run`, which does it kEach times a step in every warp, and returns what
// depends on all of them; kProduct, what each of them adds to that result (0: not checked); and
// kWarps, how many warps do it together.

struct Warp {
  static constexpr int kProduct = 0, kWarps = 1;
};

// d += popcount(a AND b), 16 x 8 at a time: of ones with ones, or by XOR of ones with zeros.
#define BMMA(NAME, SHAPE, OPERATION, BITS, OTHER, A, B, ...)                         \
  struct NAME : Warp {                                                               \
    static constexpr int kProduct = BITS;                                            \
    static __device__ int run(int steps, Values values) {                            \
      const uint32_t a = values.ones, b = values.OTHER;                              \
      int d[kChains][4] = {};                                                        \
      _Pragma("unroll 1") for (int step = 0; step < steps; ++step) {                 \
        _Pragma("unroll") for (int i = 0; i < kEach; ++i) {                          \
          int (&c)[4] = d[i % kChains];                                              \
          asm volatile("mma.sync.aligned." SHAPE ".row.col.s32.b1.b1.s32." OPERATION \
                       ".popc "                                                      \
                       "{%0, %1, %2, %3}, {" A "}, {" B "}, {%0, %1, %2, %3};"       \
                       : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])              \
                       : __VA_ARGS__);                                               \
        }                                                                            \
      }                                                                              \
      int sum = 0;                                                                   \
      for (int i = 0; i < kChains; ++i) sum += d[i][i % 4];                          \
      return sum;                                                                    \
    }                                                                                \
  };
BMMA(BmmaAnd128, "m16n8k128", "and", 128, ones, "%4, %5", "%6", "r"(a), "r"(a), "r"(b))
BMMA(BmmaXor128, "m16n8k128", "xor", 128, zero, "%4, %5", "%6", "r"(a), "r"(a), "r"(b))
BMMA(BmmaAnd256, "m16n8k256", "and", 256, ones, "%4, %5, %6, %7", "%8, %9", "r"(a), "r"(a), "r"(a),
     "r"(a), "r"(b), "r"(b))
BMMA(BmmaXor256, "m16n8k256", "xor", 256, zero, "%4, %5, %6, %7", "%8, %9", "r"(a), "r"(a), "r"(a),
     "r"(a), "r"(b), "r"(b))

// Small integer instructions; a chain takes from its neighbours, lest it be simplified.
#define INTEGER(NAME, STATEMENT)                                                            \
  struct NAME : Warp {                                                                      \
    static __device__ int run(int steps, Values values) {                                   \
      uint32_t x[kChains];                                                                  \
      for (int i = 0; i < kChains; ++i) x[i] = values.ones >> i ^ threadIdx.x;              \
      _Pragma("unroll 1") for (int step = 0; step < steps; ++step) {                        \
        _Pragma("unroll") for (int i = 0; i < kEach; ++i) {                                 \
          uint32_t &a = x[i % kChains], b = x[(i + 3) % kChains], c = x[(i + 5) % kChains]; \
          STATEMENT;                                                                        \
        }                                                                                   \
      }                                                                                     \
      uint32_t sum = 0;                                                                     \
      for (int i = 0; i < kChains; ++i) sum += x[i];                                        \
      return sum;                                                                           \
    }                                                                                       \
  };
INTEGER(Popc, asm volatile("popc.b32 %0, %0;" : "+r"(a) : "r"(b), "r"(c)))
INTEGER(Lop3, asm volatile("lop3.b32 %0, %0, %1, %2, 0x96;" : "+r"(a) : "r"(b), "r"(c)))
INTEGER(Iadd3,
        asm volatile("{ .reg .u32 t; add.u32 t, %1, %2; add.u32 %0, %0, t; }" : "+r"(a) : "r"(b),
                     "r"(c)))

// Whether any lane has a hit, and a branch that is not taken.
struct VoteAndBranch : Warp {
  static __device__ int run(int steps, Values values) {
    uint32_t x[kChains];
    for (int i = 0; i < kChains; ++i) x[i] = values.zero;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        asm volatile("" : "+r"(x[i % kChains]));  // may have changed, as far as is known
        if (__any_sync(~0u, x[i % kChains])) return 1;
      }
    }
    return -1;
  }
};

// 16 bytes a lane without bank conflicts; where a lane loads next is what it has loaded.
struct SharedLoad : Warp {
  static __device__ int run(int steps, Values values) {
    __shared__ uint4 words[kChains * kThreads];
    uint32_t at[kChains], sum = 0;
    for (int i = 0; i < kChains; ++i) {
      at[i] = uint32_t(__cvta_generic_to_shared(words + i * kThreads + threadIdx.x));
      words[i * kThreads + threadIdx.x] = {at[i], values.zero, values.zero, values.zero};
    }
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        uint32_t y, z, w, &x = at[i % kChains];
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%0];"
                     : "+r"(x), "=r"(y), "=r"(z), "=r"(w));
        sum ^= y ^ z;
        x += w;
      }
    }
    return sum;
  }
};

// Additions that return what was there, by one lane of a warp, or by all of them.
template <uint32_t SPREAD, int LANES>
struct Atomics : Warp {
  static __device__ int run(int steps, Values values) {
    uint32_t sum = 0, random = 1 + blockIdx.x * kThreads + threadIdx.x;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        random = random * 1664525 + 1013904223;
        const uint32_t at = SPREAD == 1 ? 0 : (random >> 8) % SPREAD * (kWords / SPREAD);
        if (threadIdx.x % 32 < LANES) {
          uint32_t before;
          asm volatile("atom.global.add.u32 %0, [%1], 1;"
                       : "=r"(before)
                       : "l"(values.words + at)
                       : "memory");
          sum += before;
        }
      }
    }
    return sum;
  }
};
using AtomicsSame = Atomics<1, 1>;       // one counter for all warps
using AtomicsQueries = Atomics<512, 1>;  // a counter a query, 8 KB apart
using AtomicsSpread = Atomics<kWords, 32>;

// Products by a group of four warps, 64 x N x 256 bits, with the first factor in registers; only
// code for sm_90a has them.
struct WarpGroup {
  static constexpr int kProduct = 256, kWarps = 4;
};
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define EIGHT(x) x "0, " x "1, " x "2, " x "3, " x "4, " x "5, " x "6, " x "7"
#define THIRTY_TWO(x) EIGHT(x "0") ", " EIGHT(x "1") ", " EIGHT(x "2") ", " EIGHT(x "3")
#define DECLARED(x) ".reg .s32 " THIRTY_TWO(x) ";\n"
#define EIGHT_TIMES(x) x x x x x x x x
#define BGMMA(NAME, SHAPE, DECLARATIONS, D)                                                        \
  struct NAME : WarpGroup {                                                                        \
    static __device__ int run(int steps, Values values) {                                          \
      __shared__ __align__(128) uint32_t other[2048];                                              \
      for (int i = threadIdx.x; i < 2048; i += kThreads) other[i] = values.ones;                   \
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");                                 \
      __syncthreads();                                                                             \
      /* Tiles of 8 rows and 16 bytes, 128 bytes apart in a row and 256 between rows. */           \
      const uint64_t matrix =                                                                      \
          __cvta_generic_to_shared(other) >> 4 | uint64_t{8} << 16 | uint64_t{16} << 32;           \
      int d = 0;                                                                                   \
      asm volatile(                                                                              \
          "{\n.reg .pred more, add;\n.reg .s32 left;\n" DECLARATIONS                             \
          "mov.s32 left, %1;\nsetp.ne.s32 add, 0, 0;\nAGAIN:\n.pragma \"nounroll\";\nwgmma.fence.sync.aligned;\n"       \
          EIGHT_TIMES("wgmma.mma_async.sync.aligned." SHAPE ".s32.b1.b1.and.popc {" D            \
                      "}, {%2, %2, %2, %2}, %3, add;\nsetp.eq.s32 add, 0, 0;\n")                 \
          "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"                 \
          "sub.s32 left, left, 1;\nsetp.ne.s32 more, left, 0;\n@more bra AGAIN;\n"               \
          "mov.s32 %0, a17;\n}"                                                                  \
          : "=r"(d)                                                                              \
          : "r"(steps * (kEach / 8)), "r"(values.ones), "l"(matrix)                              \
          : "memory"); \
      return d;                                                                                    \
    }                                                                                              \
  };
BGMMA(Bgmma64, "m64n64k256", DECLARED("a"), THIRTY_TWO("a"))
BGMMA(Bgmma256, "m64n256k256", DECLARED("a") DECLARED("b") DECLARED("c") DECLARED("e"),
      THIRTY_TWO("a") ", " THIRTY_TWO("b") ", " THIRTY_TWO("c") ", " THIRTY_TWO("e"))
#else
struct Bgmma64 : WarpGroup {
  static __device__ int run(int, Values) { return 0; }
};
struct Bgmma256 : Bgmma64 {};
#endif

template <class Instruction>
__global__ void __launch_bounds__(kThreads)
    repeat(int steps, Values values, int* results, long long* cycles) {
  __syncthreads();
  const long long start = clock64();
  const int result = Instruction::run(steps, values);
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = clock64() - start;
  results[blockIdx.x * kThreads + threadIdx.x] = result;
}

struct Device {
  int processors;
  Values values;
  int* results;       // one a thread
  long long* cycles;  // managed memory would do, but is best left alone
  bool wrong = false;

  Device() {
    CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    values.ones = ~0u;
    values.zero = 0;
    CHECK(cudaMalloc(&values.words, kWords * sizeof(uint32_t)));
    CHECK(cudaMemset(values.words, 0, kWords * sizeof(uint32_t)));
    CHECK(cudaMalloc(&results, size_t(processors) * kBlocksEach * kThreads * sizeof(int)));
    CHECK(cudaMalloc(&cycles, sizeof(long long)));
  }

  template <class Instruction>
  float launch(int blocks, int steps) {
    cudaEvent_t start, end;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaEventRecord(start));
    repeat<Instruction><<<blocks, kThreads>>>(steps, values, results, cycles);
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float milliseconds;
    CHECK(cudaEventElapsedTime(&milliseconds, start, end));
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(end));
    return milliseconds;
  }

  // Blocks that a multiprocessor holds at once, in a single wave.
  template <class Instruction>
  void measure(const char* name) {
    int each;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, repeat<Instruction>, kThreads, 0));
    if (each > kBlocksEach) each = kBlocksEach;
    const int blocks = each * processors;
    launch<Instruction>(blocks, 1);
    int steps = 16;
    float best = launch<Instruction>(blocks, steps);
    while (best < kMilliseconds / 2 && steps < (1 << 20)) {
      steps *= best < kMilliseconds / 16 ? 8 : 2;
      best = launch<Instruction>(blocks, steps);
    }
    long long fewest = 0;
    for (int i = 0; i < kLaunches; ++i) {
      const float milliseconds = launch<Instruction>(blocks, steps);
      if (i > 0 && milliseconds >= best) continue;
      best = milliseconds;
      CHECK(cudaMemcpy(&fewest, cycles, sizeof(fewest), cudaMemcpyDeviceToHost));
    }
    if (Instruction::kProduct) check(name, unsigned(Instruction::kProduct) * kEach * steps, blocks);
    const double done = double(blocks) * (kThreads / 32) / Instruction::kWarps * kEach * steps;
    std::printf("%s,%.0f,%.6f,%lld\n", name, done, best, fewest);
    std::fflush(stdout);
  }

  void check(const char* name, unsigned expected, int blocks) {
    const int threads = blocks * kThreads;
    auto* const found = static_cast<unsigned*>(std::malloc(threads * sizeof(unsigned)));
    CHECK(cudaMemcpy(found, results, threads * sizeof(unsigned), cudaMemcpyDeviceToHost));
    for (int i = 0; i < threads; ++i) {
      if (found[i] == expected) continue;
      std::fprintf(stderr, "%s: thread %d has %u, expected %u\n", name, i, found[i], expected);
      wrong = true;
      break;
    }
    std::free(found);
  }
};

}  // namespace

int main() {
  Device device;
  int major;
  CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  std::printf("%d\n", device.processors);
  device.measure<BmmaAnd128>("BMMA m16n8k128 AND");
  device.measure<BmmaXor128>("BMMA m16n8k128 XOR");
  device.measure<BmmaAnd256>("BMMA m16n8k256 AND");
  device.measure<BmmaXor256>("BMMA m16n8k256 XOR");
  if (major == 9) {
    device.measure<Bgmma64>("BGMMA m64n64k256 AND");
    device.measure<Bgmma256>("BGMMA m64n256k256 AND");
  }
  device.measure<Popc>("POPC");
  device.measure<Lop3>("LOP3");
  device.measure<Iadd3>("IADD3");
  device.measure<VoteAndBranch>("VOTE and branch");
  device.measure<SharedLoad>("LDS.128");
  device.measure<AtomicsSame>("ATOMG a warp, one address");
  device.measure<AtomicsQueries>("ATOMG a warp, 512 addresses");
  device.measure<AtomicsSpread>("ATOMG a lane, 2^20 addresses");
  return device.wrong;
}
