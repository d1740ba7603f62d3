#include "search.h"

#include <limits>

#include "probe.h"
#include "threads.h"

namespace hashfast::index {
namespace {

const Probes& probes() {
#if HASHFAST_X86
  switch (cpu_level()) {
    case CpuLevel::avx512: return avx512::probes;
    case CpuLevel::avx2: return avx2::probes;
    default: break;
  }
#endif
  return portable::probes;
}

// A thread takes longer to start than some queries take to answer.
constexpr int64_t kQueriesAThread = 8;

template <class F>
void each_query(const Request& request, int64_t threads, F&& f) {
  parallel(request.n, std::min(threads, request.n / kQueriesAThread + 1), f);
}

}  // namespace

void find_nearest(const MultiHash& index, const Request& request, int64_t k, int64_t threads,
                  int32_t* distances, int64_t* rows) {
  each_query(request, threads, [&](int64_t i) {
    Nearest nearest(k, 8 * index.bytes);
    probes().nearest(index, request, request.queries + i * index.bytes, nearest);
    const std::vector<Key>& found = nearest.sorted();
    const int64_t n = static_cast<int64_t>(found.size());
    for (int64_t j = 0; j < n; ++j) {
      distances[i * k + j] = static_cast<int32_t>(found[j] >> 32);
      rows[i * k + j] = static_cast<uint32_t>(found[j]);
    }
    std::fill(distances + i * k + n, distances + (i + 1) * k, std::numeric_limits<int32_t>::max());
    std::fill(rows + i * k + n, rows + (i + 1) * k, -1);
  });
}

Ranges find_within(const MultiHash& index, const Request& request, int64_t radius,
                   int64_t threads) {
  std::vector<std::vector<Key>> found(request.n);
  each_query(request, threads, [&](int64_t i) {
    Within within(radius);
    probes().within(index, request, request.queries + i * index.bytes, within);
    found[i] = within.sorted();
  });
  Ranges ranges;
  ranges.limits.reserve(request.n + 1);
  ranges.limits.push_back(0);
  for (const auto& keys : found)
    ranges.limits.push_back(ranges.limits.back() + static_cast<int64_t>(keys.size()));
  ranges.distances.reserve(ranges.limits.back());
  ranges.rows.reserve(ranges.limits.back());
  for (auto& keys : found) {
    for (const Key key : keys) {
      ranges.distances.push_back(static_cast<int32_t>(key >> 32));
      ranges.rows.push_back(static_cast<uint32_t>(key));
    }
    keys = {};
  }
  return ranges;
}

}  // namespace hashfast::index
