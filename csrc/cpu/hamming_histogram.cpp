#include <torch/csrc/stable/library.h>

#include <optional>

#include "../checks.h"
#include "hamming.h"
#include "hamming_labels.h"

namespace hashfast {
namespace {

constexpr int64_t kGroupBins = int64_t{1} << 18;  // counters held at once, for each thread

Tensor hamming_histogram(const Tensor& query, const Tensor& database,
                         const std::optional<Tensor>& query_labels,
                         const std::optional<Tensor>& database_labels) {
  constexpr const char* kOp = "hamming_histogram";
  check_codes(kOp, query, database);
  const Tensor query_rows = torch::stable::contiguous(query);
  const Tensor database_rows = torch::stable::contiguous(database);
  const Codes queries(query_rows), codes(database_rows);
  STD_TORCH_CHECK(query_labels.has_value() == database_labels.has_value(), kOp,
                  ": labels are of both query and database, or of neither");
  std::optional<Labels> ours, theirs;
  if (query_labels) {
    ours.emplace(kOp, *query_labels, queries.rows);
    theirs.emplace(kOp, *database_labels, codes.rows);
    ours->check_like(kOp, *theirs);
  }
  const int64_t bins = queries.bins();
  Tensor out = torch::stable::new_zeros(query_rows, {queries.rows, bins}, ScalarType::Long);
  int64_t* const counts = out.mutable_data_ptr<int64_t>();

  const int64_t most = std::clamp<int64_t>(kGroupBins / bins, 16, 1024);
  for (int64_t first = 0; first < queries.rows; first += most) {
    const int64_t group = std::min(most, queries.rows - first);
    const Plan plan(group, codes.rows);
    std::vector<std::vector<int64_t>> partial(plan.tasks());
    torch::stable::parallel_for(0, plan.tasks(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const Part mine = plan.queries(task);
        const Part part{first + mine.first, first + mine.last};
        partial[task].assign((part.last - part.first) * bins, 0);
        Blocks blocks(codes, plan.rows(task), nullptr, hamming_kernels().slice_for_histogram,
                      part.last - part.first);
        if (ours)
          histogram(queries, part, blocks, ClassMasks(*ours, part, *theirs), partial[task].data());
        else
          histogram(queries, part, blocks, EveryRow{}, partial[task].data());
      }
    });
    for (int64_t task = 0; task < plan.tasks(); ++task) {
      int64_t* const to = counts + (first + plan.queries(task).first) * bins;
      for (int64_t i = 0; i < std::ssize(partial[task]); ++i) to[i] += partial[task][i];
    }
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CPU, m) {
  m.impl("hamming_histogram", TORCH_BOX(&hamming_histogram));
}

}  // namespace hashfast
