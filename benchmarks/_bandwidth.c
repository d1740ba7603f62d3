// How fast memory can be read at all: three loops that do nothing else. _bandwidth.py builds it.

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { READERS = 3, MAX_THREADS = 256, LANES = 8, BLOCK = LANES * 64, AHEAD = 4096 };

// One AVX-512 register or two AVX2 ones, loaded from any address.
typedef uint64_t vec __attribute__((vector_size(64), aligned(1)));

typedef struct {
  const uint8_t* data;
  size_t blocks;
  int reader;
  uint64_t result;
} Part;

static inline void read_block(vec* sum, const uint8_t* data) {
  for (int i = 0; i < LANES; ++i) sum[i] ^= *(const vec*)(data + 64 * i);
}

static void plain(vec* sum, const uint8_t* data, size_t blocks) {
  for (size_t i = 0; i < blocks; ++i) read_block(sum, data + i * BLOCK);
}

static void prefetched(vec* sum, const uint8_t* data, size_t blocks) {
  for (size_t i = 0; i < blocks; ++i) {
    for (int j = 0; j < LANES; ++j) __builtin_prefetch(data + i * BLOCK + AHEAD + 64 * j, 0, 0);
    read_block(sum, data + i * BLOCK);
  }
}

static void two_streams(vec* sum, const uint8_t* data, size_t blocks) {
  const size_t half = blocks / 2;
  for (size_t i = 0; i < half; ++i) {
    read_block(sum, data + i * BLOCK);
    read_block(sum, data + (half + i) * BLOCK);
  }
  plain(sum, data + 2 * half * BLOCK, blocks - 2 * half);
}

static void* read_part(void* argument) {
  Part* part = argument;
  vec sum[LANES];
  memset(sum, 0, sizeof sum);
  void (*const readers[READERS])(vec*, const uint8_t*, size_t) = {plain, prefetched, two_streams};
  readers[part->reader](sum, part->data, part->blocks);
  part->result = 0;
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < 8; ++j) part->result ^= sum[i][j];
  return NULL;
}

// XOR of the whole blocks of `data` as 64-bit words, so that nothing can be left out; each thread
// reads a part of its own. Threads that cannot be started have their parts read by the caller.
uint64_t read_memory(const uint8_t* data, size_t bytes, int reader, int threads) {
  Part parts[MAX_THREADS];
  pthread_t running[MAX_THREADS];
  int started[MAX_THREADS] = {0};
  const size_t blocks = bytes / BLOCK;
  for (int i = 0; i < threads; ++i) {
    const size_t first = blocks * i / threads, last = blocks * (i + 1) / threads;
    parts[i] = (Part){data + first * BLOCK, last - first, reader, 0};
    if (i) started[i] = pthread_create(&running[i], NULL, read_part, &parts[i]) == 0;
  }
  uint64_t result = 0;
  for (int i = 0; i < threads; ++i) {
    if (started[i])
      pthread_join(running[i], NULL);
    else
      read_part(&parts[i]);
    result ^= parts[i].result;
  }
  return result;
}
