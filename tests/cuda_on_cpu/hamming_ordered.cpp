// The searches that count distances: tests/test_hamming_ordered_emulated.py.
#include "hamming_histogram.cuh"
#include "hamming_hits.cuh"
#include "hamming_ordered_topk.cuh"
#include "hamming_range.cuh"

namespace hashfast {
namespace {

using cuda_on_cpu::attempt;

// As many bytes as were asked for, with something in them that nothing may depend on.
class Workspace {
 public:
  explicit Workspace(size_t bytes)
      : fill_(cuda_on_cpu::settings.seed % 2 ? 0 : 0xA5A5A5A5),
        words_(bytes / sizeof(uint4) + 2, uint4{fill_, fill_, fill_, fill_}),
        bytes_(bytes) {}
  void* data() { return words_.data(); }
  void check() const {
    const auto* const all = reinterpret_cast<const unsigned char*>(words_.data());
    for (size_t i = bytes_; i < words_.size() * sizeof(uint4); ++i)
      if (all[i] != (fill_ & 0xFF)) throw std::runtime_error("wrote outside the workspace");
  }

 private:
  unsigned fill_;
  std::vector<uint4> words_;
  size_t bytes_;
};

LabelPointers labels_of(const int64_t* query_ids, const int64_t* database_ids,
                        const uint8_t* query_bits, const uint8_t* database_bits, int64_t width) {
  return {query_bits != nullptr, query_ids, database_ids, query_bits, database_bits, width};
}

}  // namespace

EMULATED plan(int64_t q, int64_t n, int64_t bins, int64_t kinds, int64_t most, int64_t* out) {
  return attempt([&] {
    ordered::Job job{};
    job.q = q;
    job.n = n;
    job.bins = static_cast<int>(bins);
    job.kinds = static_cast<int>(kinds);
    ordered::plan(job, Launch().processors(), most);
    out[0] = job.segments;
    out[1] = job.rows;
    out[2] = job.group;
    out[3] = job.warps;
    out[4] = job.in_shared;
    ordered::use_workspace(job, nullptr);
    out[5] =
        reinterpret_cast<intptr_t>(job.starts) + job.group * job.kinds * (job.entries() + 1) * 4;
    out[6] = static_cast<int64_t>(ordered::shared_bytes(job));
    out[7] = static_cast<int64_t>(ordered::workspace_bytes(job, Launch().processors(), most));
  });
}

// Of what words codes are read, and whether one holds a code.
EMULATED format(const uint8_t* queries, const uint8_t* database, int64_t bytes, int64_t* out) {
  return attempt([&] {
    rows::with_format(queries, database, static_cast<int>(bytes), [&](auto format) {
      out[0] = sizeof(typename decltype(format)::Word);
      out[1] = format.kWhole;
    });
  });
}

EMULATED find_nearest(const uint8_t* queries, const uint8_t* database, const uint8_t* allowed,
                      int64_t q, int64_t n, int64_t bytes, int64_t k, const int* only, int64_t most,
                      int* distances, int64_t* ids) {
  return attempt([&] {
    const int width = static_cast<int>(bytes);
    Workspace workspace(ordered_topk_bytes(q, n, width, Launch().processors(), most));
    ordered_topk(Launch(), {queries, database, allowed, q, n, width, k, only, distances, ids, most},
                 workspace.data());
    workspace.check();
  });
}

EMULATED count_distances(const uint8_t* queries, const uint8_t* database, int64_t q, int64_t n,
                         int64_t bytes, const int64_t* query_ids, const int64_t* database_ids,
                         const uint8_t* query_bits, const uint8_t* database_bits, int64_t width,
                         int64_t* out) {
  return attempt([&] {
    const LabelPointers labels =
        labels_of(query_ids, database_ids, query_bits, database_bits, width);
    histogram_of(Launch(), {queries, database, q, n, static_cast<int>(bytes),
                            query_ids || query_bits ? &labels : nullptr, out});
  });
}

EMULATED count_within(const uint8_t* queries, const uint8_t* database, const uint8_t* allowed,
                      int64_t q, int64_t n, int64_t bytes, int64_t radius, int64_t* counts) {
  return attempt([&] {
    range_count(Launch(), {queries, database, allowed, q, n, static_cast<int>(bytes), radius},
                counts);
  });
}

// Places nothing where the status says that limits are wrong.
EMULATED find_within(const uint8_t* queries, const uint8_t* database, const uint8_t* allowed,
                     int64_t q, int64_t n, int64_t bytes, int64_t radius, const int64_t* limits,
                     int64_t most, int64_t* status, int* distances, int64_t* ids) {
  return attempt([&] {
    RangeFind find({queries, database, allowed, q, n, static_cast<int>(bytes), radius},
                   Launch().processors(), most);
    Workspace workspace(find.workspace_bytes());
    find.count(Launch(), limits, workspace.data(), status);
    if (status[1] == 0) find.place(Launch(), distances, ids);
    workspace.check();
  });
}

EMULATED find_hits(const uint8_t* queries, const uint8_t* database, int64_t q, int64_t n,
                   int64_t bytes, int64_t k, const int64_t* query_ids, const int64_t* database_ids,
                   const uint8_t* query_bits, const uint8_t* database_bits, int64_t width,
                   const int64_t* left_out, int64_t most, int64_t* limits, int* ranks) {
  return attempt([&] {
    HitFind find({queries, database, q, n, static_cast<int>(bytes), k,
                  labels_of(query_ids, database_ids, query_bits, database_bits, width), left_out},
                 Launch().processors(), most);
    Workspace workspace(find.workspace_bytes());
    find.count(Launch(), workspace.data(), limits);
    find.place(Launch(), ranks);
    workspace.check();
  });
}

}  // namespace hashfast
