// Searches of many queries on several threads.
#pragma once

#include <cstdint>
#include <vector>

#include "multi_hash.h"

namespace hashfast::index {

// The hits of query i are limits[i] .. limits[i + 1] of both.
struct Ranges {
  std::vector<int64_t> limits;
  std::vector<int32_t> distances;
  std::vector<int64_t> rows;
};

// Both of [request.n, k]; where there are fewer, distance 2^31 - 1 and row -1. k is at least 1.
void find_nearest(const MultiHash& index, const Request& request, int64_t k, int64_t threads,
                  int32_t* distances, int64_t* rows);

Ranges find_within(const MultiHash& index, const Request& request, int64_t radius, int64_t threads);

}  // namespace hashfast::index
