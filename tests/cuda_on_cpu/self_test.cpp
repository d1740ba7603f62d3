// Kernels that show what the emulator does: tests/test_cuda_on_cpu.py.
#include "b1_mma.cuh"
#include "device.cuh"

namespace hashfast {
namespace {

using cuda_on_cpu::attempt;

constexpr unsigned kAll = ~0u;

// --- One warp. Results: one row of 32 a line.

template <class T>
__global__ void shuffles(const T* values, int by, int width, T* out) {
  const int lane = threadIdx.x;
  const T mine = values[lane];
  out[lane] = __shfl_sync(kAll, mine, by, width);
  out[32 + lane] = __shfl_up_sync(kAll, mine, by, width);
  out[64 + lane] = __shfl_down_sync(kAll, mine, by, width);
  out[96 + lane] = __shfl_xor_sync(kAll, mine, by, width);
  out[128 + lane] = __shfl_sync(kAll, mine, 3 * lane + by, width);
}

template <class T>
__global__ void matches(const T* values, unsigned mask, unsigned* out) {
  const int lane = threadIdx.x;
  if (mask >> lane & 1) out[lane] = __match_any_sync(mask, values[lane]);
}

__global__ void votes(const int* values, unsigned mask, unsigned* out) {
  const int lane = threadIdx.x;
  if (!(mask >> lane & 1)) return;
  out[lane] = __ballot_sync(mask, values[lane]);
  out[32 + lane] = __any_sync(mask, values[lane]);
  out[64 + lane] = __all_sync(mask, values[lane]);
}

template <class T>
__global__ void reductions(const T* values, unsigned mask, T* out) {
  const int lane = threadIdx.x;
  if (!(mask >> lane & 1)) return;
  out[lane] = __reduce_add_sync(mask, values[lane]);
  out[32 + lane] = __reduce_min_sync(mask, values[lane]);
  out[64 + lane] = __reduce_max_sync(mask, values[lane]);
  out[96 + lane] = __reduce_or_sync(mask, values[lane]);
}

__global__ void bits(const unsigned* values, int n, int* out) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    out[i] = __popc(values[i]);
    out[n + i] = __popcll(static_cast<unsigned long long>(values[i]) << 32 | 1);
    out[2 * n + i] = __clz(values[i]);
    out[3 * n + i] = __ffs(values[i]);
    out[4 * n + i] = __brev(__ldg(values + i));
    out[5 * n + i] = __ffsll(static_cast<long long>(__ldcg(values + i)) << 32);
  }
}

// Registers [32, 2 or 4], [32, 1 or 2] and [32, 4]; d takes the place of c.
template <int A, int B>
__global__ void product(const uint32_t* a, const uint32_t* b, int* c) {
  uint32_t a_part[A], b_part[B];
  int sums[4];
  for (int i = 0; i < A; ++i) a_part[i] = a[threadIdx.x * A + i];
  for (int i = 0; i < B; ++i) b_part[i] = b[threadIdx.x * B + i];
  for (int i = 0; i < 4; ++i) sums[i] = c[threadIdx.x * 4 + i];
  mma_b1(sums, a_part, b_part, sums);
  for (int i = 0; i < 4; ++i) c[threadIdx.x * 4 + i] = sums[i];
}

// --- Blocks.

// Threads beyond `alive` leave at once; the others wait for each other.
__global__ void barriers(const int* values, int alive, int* out) {
  const int i = threadIdx.x;
  if (i >= alive) return;
  out[i] = __syncthreads_count(values[i]);
  out[blockDim.x + i] = __syncthreads_or(values[i]);
}

// Every thread takes what its neighbour on the left, or on the right, has written, if it has one.
__global__ void neighbours(int right, int barrier, int* out) {
  __shared__ int written[64];
  const int i = threadIdx.x;
  written[i] = i;
  if (barrier) __syncthreads();
  out[i] = written[right ? min(i + 1, 63) : max(i - 1, 0)];
}

// One value a round for all: written again too early where the second barrier is missing.
__global__ void rounds(int barrier, int* out) {
  __shared__ int value;
  for (int round = 0; round < 4; ++round) {
    if (threadIdx.x == blockDim.x - 1) value = round;
    __syncthreads();
    for (int i = 0; i < 3; ++i) __syncwarp();
    out[round * blockDim.x + threadIdx.x] = value;
    if (barrier) __syncthreads();
  }
}

__global__ void stuck(int how, int* out) {
  const int i = threadIdx.x;
  if (how == 0 && i == 33) out[i] = __ballot_sync(kAll, 1);
  if (how == 0) __syncthreads();
  if (how == 1) i < 40 ? __syncthreads() : __syncthreads();
  if (how == 2) out[i] = __shfl_sync(0xff, i, 0);
  if (how == 3) out[i] = __shfl_down_sync(kAll, i, 1, 12);
  if (how == 4) __syncwarp(i % 32 ? kAll : 3);
  if (how == 5 && i % 2 == 0) {
    int sums[4] = {};
    mma_b1(sums, {1, 2}, {3}, sums);
  }
}

__global__ void unwritten(int past, uint32_t* out) {
  __shared__ uint32_t fixed[2];
  HASHFAST_DYNAMIC_SHARED(dynamic);
  if (threadIdx.x == 0) {
    uint32_t* const line = out + 4 * blockIdx.x;
    line[0] = fixed[0];
    std::memcpy(line + 1, dynamic + 12, 4);
    line[2] = fixed[1] = blockIdx.x;
    line[3] = reinterpret_cast<uintptr_t>(dynamic) % 16;
    std::memset(dynamic, 0, 16);
    if (past) dynamic[16 + past - 1] = 0;
  }
}

template <class T>
__global__ void atomics(T* out) {
  const T i = threadIdx.x + blockDim.x * blockIdx.x;
  atomicAdd(out, i);
  atomicMin(out + 1, i);
  atomicMax(out + 2, i);
  atomicOr(out + 3, i);
  atomicAdd(out + 4, atomicExch(out + 5, i));
  T old = out[6];
  for (;;) {
    const T seen = atomicCAS(out + 6, old, old + i);
    if (seen == old) break;
    old = seen;
  }
}

__global__ void float_sum(float* out) { atomicAdd(out, 0.5f); }

// Blocks share tickets until none is left; the last one adds up what all had.
__global__ void tickets(int n, int* next, int* done, int* owner, int* sums, int* total) {
  __shared__ int ticket;
  __shared__ int sum;
  if (threadIdx.x == 0) sum = 0;
  for (;;) {
    if (threadIdx.x == 0) ticket = atomicAdd(next, 1);
    __syncthreads();
    const int mine = ticket;
    __syncthreads();
    if (mine >= n) break;
    if (threadIdx.x == 0) owner[mine] = blockIdx.x;
    atomicAdd(&sum, mine);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = sum;
  __threadfence();
  if (atomicAdd(done, 1) == static_cast<int>(gridDim.x) - 1)
    for (unsigned i = 0; i < gridDim.x; ++i) *total += __ldcg(sums + i);
}

// Everyone takes a place before writing to it: counts those that found places still unwritten.
__global__ void early_places(int* next, int* written, int* early) {
  const int place = atomicAdd(next, 1);
  for (int i = 0; i < place; ++i)
    if (!written[i]) {
      atomicAdd(early, 1);
      break;
    }
  written[place] = 1;
}

// The most steps that one warp of two is ahead of the other.
__global__ void lead(int* steps, int* most) {
  for (int i = 1; i <= 100; ++i) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) steps[threadIdx.x / 32] = i;
    *most = max(*most, max(steps[0] - steps[1], steps[1] - steps[0]));
  }
}

__global__ void places(int times, int* next, uint3* out) {
  for (int i = 0; i < times && threadIdx.x == 0; ++i) out[atomicAdd(next, 1)] = blockIdx;
}

}  // namespace

template <class Kernel, class... Arguments>
const char* run(Kernel kernel, dim3 grid, int threads, size_t shared, Arguments... arguments) {
  return attempt([&] { Launch()(kernel, grid, threads, shared, arguments...); });
}

EMULATED shuffles_32(const float* values, int64_t by, int64_t width, float* out) {
  return run(shuffles<float>, 1, 32, 0, values, by, width, out);
}
EMULATED shuffles_64(const int64_t* values, int64_t by, int64_t width, int64_t* out) {
  return run(shuffles<int64_t>, 1, 32, 0, values, by, width, out);
}
EMULATED matches_32(const int* values, int64_t mask, unsigned* out) {
  return run(matches<int>, 1, 32, 0, values, mask, out);
}
EMULATED matches_64(const unsigned long long* values, int64_t mask, unsigned* out) {
  return run(matches<unsigned long long>, 1, 32, 0, values, mask, out);
}
EMULATED vote(const int* values, int64_t mask, unsigned* out) {
  return run(votes, 1, 32, 0, values, mask, out);
}
EMULATED reduce_int(const int* values, int64_t mask, int* out) {
  return run(reductions<int>, 1, 32, 0, values, mask, out);
}
EMULATED reduce_unsigned(const unsigned* values, int64_t mask, unsigned* out) {
  return run(reductions<unsigned>, 1, 32, 0, values, mask, out);
}
EMULATED count_bits(const unsigned* values, int64_t n, int* out) {
  return run(bits, 1, 32, 0, values, n, out);
}
EMULATED product_128(const uint32_t* a, const uint32_t* b, int* c) {
  return run(product<2, 1>, 1, 32, 0, a, b, c);
}
EMULATED product_256(const uint32_t* a, const uint32_t* b, int* c) {
  return run(product<4, 2>, 1, 32, 0, a, b, c);
}
EMULATED count_threads(const int* values, int64_t threads, int64_t alive, int* out) {
  return run(barriers, 1, threads, 0, values, alive, out);
}
EMULATED read_neighbours(int64_t right, int64_t barrier, int* out) {
  return run(neighbours, 1, 64, 0, right, barrier, out);
}
EMULATED read_rounds(int64_t barrier, int* out) { return run(rounds, 1, 96, 0, barrier, out); }
EMULATED get_stuck(int64_t how, int* out) { return run(stuck, dim3(1, 2), 64, 0, how, out); }
EMULATED read_unwritten(int64_t blocks, int64_t past, uint32_t* out) {
  return run(unwritten, blocks, 32, 16, past, out);
}
EMULATED atomics_int(int64_t blocks, int64_t threads, int* out) {
  return run(atomics<int>, blocks, threads, 0, out);
}
EMULATED atomics_unsigned(int64_t blocks, int64_t threads, unsigned* out) {
  return run(atomics<unsigned>, blocks, threads, 0, out);
}
EMULATED atomics_64(int64_t blocks, int64_t threads, unsigned long long* out) {
  return run(atomics<unsigned long long>, blocks, threads, 0, out);
}
EMULATED atomics_float(float* out) { return run(float_sum, 3, 40, 0, out); }
EMULATED take_tickets(int64_t blocks, int64_t threads, int64_t n, int* counters, int* owner,
                      int* sums, int* total) {
  return attempt([&] {
    const Launch launch;
    launch.zero(counters, 2 * sizeof(int));
    launch(tickets, blocks, threads, 0, n, counters, counters + 1, owner, sums, total);
  });
}
EMULATED take_places(int64_t blocks, int64_t threads, int* next, int* written, int* early) {
  return run(early_places, blocks, threads, 0, next, written, early);
}
EMULATED measure_lead(int* steps, int* most) { return run(lead, 1, 64, 0, steps, most); }
EMULATED visit(int64_t x, int64_t y, int64_t z, int64_t times, int* next, uint3* out) {
  return run(places, dim3(x, y, z), 5, 0, times, next, out);
}
EMULATED launch_nothing(int64_t x, int64_t threads, int64_t shared) {
  return run(float_sum, x, threads, shared, nullptr);
}
EMULATED properties(int64_t* out) {
  out[0] = Launch().processors();
  out[1] = Launch().multiplies_bits();
  return nullptr;
}

}  // namespace hashfast
