// The search for the k nearest codes, with the sizes of its parts as a test wants them.
#include "hamming_search.cuh"

#include <vector>

using namespace hashfast;

// Sizes that are 0 stay as planned. used[0]: whether the filtered search ran; used[1]: queries for
// which the ordered search had to step in (of the last batch); used[2]: hits recorded for them all.
EMULATED search(const uint8_t* queries, const uint8_t* database, const uint8_t* allowed, int64_t q,
                int64_t n, int64_t bytes, int64_t k, int64_t filtered, int64_t sample, int64_t head,
                int64_t capacity, int64_t batch, int32_t* distances, int64_t* ids, int64_t* used) {
  return cuda_on_cpu::attempt([=] {
    const Launch launch;
    TopKPlan plan(q, n, static_cast<int>(bytes), k, launch.multiplies_bits(), launch.processors());
    if (filtered) {
      plan.filtered = true;
      plan.size = 1;
      while (plan.size < k) plan.size *= 2;
    }
    if (sample) plan.take_sample(n, std::min(sample, n), head);
    if (capacity) plan.capacity = static_cast<unsigned>(capacity);
    if (batch) plan.batch = std::min(q, batch);
    const size_t size = top_k_bytes(plan, n, static_cast<int>(bytes), k, launch.processors());
    std::vector<uint4> workspace(size / 16 + 2);
    const int fill = cuda_on_cpu::settings.seed % 2 ? 0 : 0xA5;  // less or more than any key
    std::memset(workspace.data(), fill, 16 * workspace.size());
    top_k(launch,
          TopK{queries, database, allowed, q, n, static_cast<int>(bytes), k, distances, ids}, plan,
          workspace.data());
    const auto* const last = reinterpret_cast<const unsigned char*>(workspace.data()) + size;
    for (const auto* byte = last; byte < reinterpret_cast<const unsigned char*>(&*workspace.end());
         ++byte)
      if (*byte != fill) throw std::runtime_error("written beyond the workspace");
    used[0] = plan.filtered;
    used[1] = used[2] = 0;
    if (!plan.filtered) return;
    const FilterMemory memory(plan, static_cast<int>(bytes), k, workspace.data());
    for (int64_t i = 0; i < std::min(q, plan.batch); ++i) {
      used[1] += memory.again[i];
      used[2] += memory.filter.recorded[i];
    }
  });
}

// The limits that a search starts with: distances and, in `chunks`, from where on they are tighter.
EMULATED first_limits(const uint8_t* queries, const uint8_t* database, const uint8_t* allowed,
                      int64_t q, int64_t n, int64_t bytes, int64_t k, int64_t rows, int64_t head,
                      int64_t* distances, int64_t* chunks) {
  return cuda_on_cpu::attempt([=] {
    const Launch launch;
    const int width = static_cast<int>(bytes);
    TopKPlan plan(q, n, width, k, launch.multiplies_bits(), launch.processors());
    plan.take_sample(n, rows, head);
    std::vector<Limit> limits(q);
    Filter filter{};
    filter.limits = limits.data();
    filter.bins = 8 * width + 1;
    filter.k = static_cast<unsigned>(k);
    sample(launch, PackedCodes(queries, q, width), PackedCodes(database, n, width), allowed, plan,
           filter);
    for (int64_t i = 0; i < q; ++i) {
      distances[i] = static_cast<int64_t>(limits[i] >> 32);
      chunks[i] = static_cast<unsigned>(limits[i]);
    }
  });
}

// out: whether a search is filtered, and on tensor cores; queries of a batch; runs of the head and
// of the whole sample, their stride; chunks of the head, small ones, all; hits kept of a query,
// keys sorted; bytes of workspace.
EMULATED plan(int64_t q, int64_t n, int64_t bytes, int64_t k, int64_t* out) {
  return cuda_on_cpu::attempt([=] {
    const Launch launch;
    const int width = static_cast<int>(bytes);
    const TopKPlan plan(q, n, width, k, launch.multiplies_bits(), launch.processors());
    const int64_t all[] = {
        plan.filtered,
        plan.on_tensor_cores,
        plan.batch,
        plan.sample.head_runs,
        plan.sample.runs,
        plan.sample.stride,
        plan.sample.head_chunks,
        plan.chunks.small,
        plan.chunks.number,
        plan.capacity,
        plan.size,
        static_cast<int64_t>(top_k_bytes(plan, n, width, k, launch.processors())),
    };
    std::copy(std::begin(all), std::end(all), out);
  });
}
