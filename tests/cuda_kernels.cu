// Starts every kernel of the Hamming searches, so that a compiler makes all of them, without torch.
#include <tuple>

#include "hamming_histogram.cuh"
#include "hamming_hits.cuh"
#include "hamming_range.cuh"
#include "hamming_search.cuh"

namespace hashfast {

struct Launch {
  template <class... Parameters, class... Arguments>
  void operator()(void (*)(Parameters...), dim3, int, size_t, Arguments... arguments) const {
    const std::tuple<Parameters...> given{static_cast<Parameters>(arguments)...};
    static_cast<void>(given);
  }
  void zero(void*, size_t) const {}
  int processors() const { return 132; }
};

void start_all(const TopK& top, const TopKPlan& plan, const HistogramSearch& histogram,
               const RangeSearch& range, const HitSearch& hit, int64_t* counts, void* workspace) {
  const Launch launch;
  top_k(launch, top, plan, workspace);
  histogram_of(launch, histogram);
  range_count(launch, range, counts);
  RangeFind find_range(range, launch.processors());
  find_range.count(launch, counts, workspace, counts);
  find_range.place(launch, top.distances, top.ids);
  HitFind find_hits(hit, launch.processors());
  find_hits.count(launch, workspace, counts);
  find_hits.place(launch, top.distances);
}

// Shared memory of a processor of 8.0, of which each block takes 1 KB more.
constexpr size_t kOfProcessor = 164 * 1024, kMore = 1024;
template <class Shape>
constexpr bool fits =
    Shape::kShared <= kSharedMemory && Shape::kBlocks * (Shape::kShared + kMore) <= kOfProcessor;
static_assert(fits<MmaShape<1, 1, 1>> && fits<MmaShape<1, 1, 4>>);
static_assert(fits<MmaShape<2, 1, 1>> && fits<MmaShape<2, 1, 4>>);
static_assert(fits<MmaShape<2, 2, 1>> && fits<MmaShape<2, 2, 2>>);
static_assert(fits<MmaShape<2, 4, 1>> && fits<MmaShape<2, 4, 2>>);
static_assert(fits<MmaShape<2, 8, 1>>);
static_assert(sizeof(Key) * kSortedInShared <= kSharedMemory);

}  // namespace hashfast
