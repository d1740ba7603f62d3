// The k nearest by counting: exact for any codes and any k, without a limit on what is found.
#pragma once

#include "hamming_ordered.cuh"

namespace hashfast {

struct OrderedTopK {
  const uint8_t *queries, *database, *allowed;
  int64_t q, n;  // n < 2^32
  int bytes;
  int64_t k;
  const int* only;                     // null, or a flag a query: where it is 0 nothing is written
  int* distances;                      // [q, k]
  int64_t* ids;                        // [q, k]
  int64_t most = ordered::kWorkspace;  // bytes of workspace, unless one query needs more
};

namespace ordered {

inline Job topk_job(int64_t q, int64_t n, int bytes, int processors, int64_t most) {
  Job job{};
  job.q = q;
  job.n = n;
  job.bytes = bytes;
  job.bins = 8 * bytes + 1;
  job.kinds = 1;
  plan(job, processors, most);
  return job;
}

}  // namespace ordered

inline size_t ordered_topk_bytes(int64_t q, int64_t n, int bytes, int processors,
                                 int64_t most = ordered::kWorkspace) {
  return ordered::workspace_bytes(ordered::topk_job(q, n, bytes, processors, most), processors,
                                  most);
}

// The k nearest rows of every query by (distance, row), padded. workspace: ordered_topk_bytes of as
// many queries or more.
template <class Launch>
void ordered_topk(const Launch& launch, const OrderedTopK& search, void* workspace) {
  ordered::Job all =
      ordered::topk_job(search.q, search.n, search.bytes, launch.processors(), search.most);
  all.queries = search.queries;
  all.database = search.database;
  all.allowed = search.allowed;
  all.only = search.only;
  ordered::use_workspace(all, workspace);
  const ordered::Output output{search.distances, search.ids, nullptr, nullptr, search.k};
  ordered::for_groups(all, [&](const ordered::Job& job, int64_t queries) {
    ordered::count<false, true>(launch, job, queries, search.k, output, nullptr);
    ordered::place<false>(launch, job, queries, search.k, output);
  });
}

}  // namespace hashfast
